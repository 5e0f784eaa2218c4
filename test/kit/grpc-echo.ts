// A gRPC server of grpc-js with all four kinds of calls, and its client's calls, for tests.
import {
  type Client,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { deadline, methodOf, same } from "./grpc-bytes.ts";

export const pattern = (bytes: number): Buffer => Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 31) % 253));
const method = methodOf("test.Echo");
type Call = Buffer;

/** Says `name`, if it has one, before it answers. Unary echoes, or fails as asked; server streaming sends as many as asked; client streaming counts; the last sends each back. */
export function grpcServer(
  at = "127.0.0.1:0",
  name = "",
): Promise<{ port: number; stop(): void; drain(): Promise<void> }> {
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  const greet = (call: { sendMetadata(head: Metadata): void }): void => {
    if (name === "") return;
    const head = new Metadata();
    head.set("x-pod", name);
    call.sendMetadata(head);
  };
  server.addService(
    {
      One: method("One", false, false),
      Many: method("Many", false, true),
      Sum: method("Sum", true, false),
      Chat: method("Chat", true, true),
    },
    {
      One(call: ServerUnaryCall<Call, Call>, done: sendUnaryData<Call>) {
        greet(call);
        if (call.request.toString() === "fail") {
          done({ code: status.FAILED_PRECONDITION, details: "not now: ä%\n", metadata: new Metadata() });
          return;
        }
        if (call.request.toString() === "never") return;
        const trailer = new Metadata();
        trailer.set("x-trailer", "t");
        done(null, call.request, trailer);
      },
      Many(call: ServerWritableStream<Call, Call>) {
        greet(call);
        let left = Number(call.request.toString());
        const more = (): void => {
          while (left > 0) {
            left -= 1;
            if (!call.write(pattern(10_000))) {
              call.once("drain", more);
              return;
            }
          }
          call.end();
        };
        more();
      },
      Sum(call: ServerReadableStream<Call, Call>, done: sendUnaryData<Call>) {
        greet(call);
        let bytes = 0;
        call.on("data", (m: Call) => {
          bytes += m.length;
        });
        call.on("end", () => done(null, Buffer.from(String(bytes))));
      },
      Chat(call: ServerDuplexStream<Call, Call>) {
        greet(call);
        call.on("data", (m: Call) => void call.write(m));
        call.on("end", () => call.end());
      },
    },
  );
  return new Promise((resolve, reject) =>
    server.bindAsync(at, ServerCredentials.createInsecure(), (error, port) =>
      error === null
        ? resolve({
            port,
            stop: () => server.forceShutdown(),
            drain: () => new Promise((done) => server.tryShutdown(() => done())),
          })
        : reject(error),
    ),
  );
}

export const path = (name: string): string => `/test.Echo/${name}`;
export function unary(client: Client, message: string, options: object = deadline()) {
  return new Promise<{ value?: string; code: number; details: string; trailer: unknown }>((resolve) => {
    let value: string | undefined;
    const call = client.makeUnaryRequest(
      path("One"),
      same,
      same,
      Buffer.from(message),
      new Metadata(),
      options,
      (_e, v) => {
        value = v?.toString();
      },
    );
    call.on("status", (s) =>
      setImmediate(() =>
        resolve({
          ...(value === undefined ? {} : { value }),
          code: s.code,
          details: s.details,
          trailer: s.metadata.get("x-trailer")[0],
        }),
      ),
    );
  });
}
