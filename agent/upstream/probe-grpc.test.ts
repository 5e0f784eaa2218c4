// Health checks of gRPC against a real server of grpc-js.
import assert from "node:assert/strict";
import { connect, type OnReadOpts } from "node:net";
import { test } from "node:test";
import { Server, ServerCredentials, type sendUnaryData, status } from "@grpc/grpc-js";
import { systemClock } from "../base/clock.ts";
import { GrpcProbe, healthRequest, healthStatus } from "./probe-grpc.ts";

const raw = (bytes: Buffer): Buffer => bytes;
const check = {
  path: "/grpc.health.v1.Health/Check",
  requestStream: false,
  responseStream: false,
  requestSerialize: raw,
  requestDeserialize: raw,
  responseSerialize: raw,
  responseDeserialize: raw,
} as const;

test("[RES-9] a server of gRPC is healthy when it says SERVING of the service, and only then", async (t) => {
  const server = new Server();
  const states: Readonly<Record<string, number>> = { "": 1, up: 1, down: 2 };
  server.addService(
    { check },
    {
      check(call: { readonly request: Buffer }, answer: sendUnaryData<Buffer>) {
        const name = call.request.length === 0 ? "" : call.request.subarray(2).toString();
        const state = states[name];
        if (state === undefined) answer({ code: status.NOT_FOUND, details: "no such service" });
        else answer(null, Buffer.from([0x08, state]));
      },
    },
  );
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  );
  t.after(() => server.forceShutdown());
  const probe = (service: string, to = port): Promise<string> =>
    new Promise((resolve) => {
      const asked = new GrpcProbe(service, "health.test", systemClock, (isGood, why) => {
        socket.destroy();
        resolve(`${isGood} ${why}`);
      });
      const socket = connect({ port: to, onread: asked.onread as OnReadOpts }, () => asked.begin(socket));
      socket.on("error", () => {});
    });
  assert.equal(await probe(""), "true serving");
  assert.equal(await probe("up"), "true serving");
  assert.equal(await probe("down"), "false not_serving");
  assert.equal(await probe("unknown"), `false grpc_${status.NOT_FOUND}`);
});

test("messages of the health check are those of its protocol file", () => {
  assert.deepEqual([...healthRequest("")], [0, 0, 0, 0, 0]);
  assert.deepEqual([...healthRequest("ab")], [0, 0, 0, 0, 4, 0x0a, 2, 97, 98]);
  assert.equal(healthStatus(Buffer.from([0, 0, 0, 0, 2, 8, 1])), 1);
  assert.equal(healthStatus(Buffer.from([0, 0, 0, 0, 0])), 0);
  for (const wrong of [[], [1, 0, 0, 0, 0], [0, 0, 0, 0, 2, 8], [0, 0, 0, 0, 2, 16, 1]])
    assert.equal(healthStatus(Buffer.from(wrong)), undefined);
});
