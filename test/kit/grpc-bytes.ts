// Methods of gRPC whose messages are bytes, as they are: what clients and servers of the tests need without any proto file.
import type { MethodDefinition } from "@grpc/grpc-js";

export const same = (b: Buffer): Buffer => b;
export const deadline = (): { deadline: number } => ({ deadline: Date.now() + 60_000 });

/** A method of `service` ("package.Name"). */
export const methodOf =
  (service: string) =>
  (name: string, requestStream: boolean, responseStream: boolean): MethodDefinition<Buffer, Buffer> => ({
    path: `/${service}/${name}`,
    requestStream,
    responseStream,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  });
