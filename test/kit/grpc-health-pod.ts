// Runs in a pod: answers grpc.health.v1.Health/Check on the given port with SERVING, as a gRPC probe asks.
import { Server, ServerCredentials } from "@grpc/grpc-js";

const same = (bytes: Buffer): Buffer => bytes;
const check = {
  path: "/grpc.health.v1.Health/Check",
  requestStream: false,
  responseStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
} as const;
const server = new Server();
// HealthCheckResponse { status: SERVING }
server.addService(
  { check },
  { check: (_call: unknown, done: (error: null, answer: Buffer) => void) => done(null, Buffer.from([8, 1])) },
);
server.bindAsync(`0.0.0.0:${process.argv[2]}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
});
