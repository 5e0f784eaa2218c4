// A gRPC server of grpc-js: one unary method that answers with the bytes it was sent. `grpc-server.ts PORT`.
import { Server, ServerCredentials, type ServiceDefinition } from "@grpc/grpc-js";
import { GRPC_PATH } from "./servers.ts";

const same = (bytes: Buffer): Buffer => bytes;
const definition: ServiceDefinition = {
  say: {
    path: GRPC_PATH,
    requestStream: false,
    responseStream: false,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  },
};
const server = new Server({ "grpc.max_concurrent_streams": 1000 });
server.addService(definition, {
  say: (call: { readonly request: Buffer }, done: (error: null, answer: Buffer) => void) => done(null, call.request),
});
server.bindAsync(`0.0.0.0:${process.argv[2]}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
});
