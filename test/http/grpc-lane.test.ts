// gRPC through the HTTP lane: a client and a server of grpc-js with our codecs between them.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type IncomingHttpHeaders } from "node:http2";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { systemClock } from "../../agent/base/clock.ts";
import { deadline, same } from "../kit/grpc-bytes.ts";
import { grpcServer, path, pattern, unary } from "../kit/grpc-echo.ts";
import { type Lane, type LaneOptions, startLane } from "../kit/http-lane.ts";

async function grpc(t: TestContext, options: Partial<LaneOptions> = {}): Promise<{ client: Client; lane: Lane }> {
  const server = await grpcServer();
  const lane = await startLane(server.port, { upstream: "http2", ...options });
  const client = new Client(`127.0.0.1:${lane.port}`, credentials.createInsecure());
  t.after(async () => {
    client.close();
    await lane[Symbol.asyncDispose]();
    server.stop();
  });
  return { client, lane };
}

const until = async (what: string, holds: () => boolean): Promise<void> => {
  for (let i = 0; i < 1_000; i++) {
    if (holds()) return;
    await systemClock.sleep(10);
  }
  assert.fail(what);
};

test("[TRF-7] gRPC through the lane: unary calls side by side on one connection, trailers and status as the server gave them", async (t) => {
  const { client, lane } = await grpc(t);
  const answers = await Promise.all(Array.from({ length: 80 }, (_, i) => unary(client, `m${i}`)));
  for (const [i, a] of answers.entries()) assert.deepEqual(a, { value: `m${i}`, code: 0, details: "OK", trailer: "t" });
  assert.equal(lane.pools.http2.open, 1);
  const failed = await unary(client, "fail");
  assert.deepEqual([failed.code, failed.details], [status.FAILED_PRECONDITION, "not now: ä%\n"]);
  await until("all ended", () => lane.ended.length === 81);
  const codes = lane.ended.map(({ grpcStatus, status: http, outcome }) => `${http} ${grpcStatus} ${outcome}`);
  assert.equal(codes.filter((c) => c === "200 0 finished").length, 80);
  assert.equal(codes.filter((c) => c === "200 9 finished").length, 1);
});

test("[TRF-7] gRPC through the lane: client, server and bidirectional streaming, a slow reader costs no memory", async (t) => {
  const { client, lane } = await grpc(t);
  const many = client.makeServerStreamRequest(path("Many"), same, same, Buffer.from("400"), new Metadata(), deadline());
  many.pause();
  const queued = (): number => {
    let bytes = 0;
    for (const connection of lane.connections) if ("streamCount" in connection) bytes += connection.queuedBytes;
    return bytes;
  };
  // 4 MB are asked for and nobody reads: what lies here stops growing at the windows.
  await until("the queue fills", () => queued() > 0);
  await systemClock.sleep(200);
  assert.ok(queued() <= 400_000, `${queued()}`);
  let bytes = 0;
  for await (const message of many as AsyncIterable<Buffer>) bytes += message.length;
  assert.equal(bytes, 4_000_000);

  const summed = new Promise<string>((resolve, reject) => {
    const sum = client.makeClientStreamRequest(path("Sum"), same, same, new Metadata(), deadline(), (error, value) =>
      error === null ? resolve(String(value)) : reject(error),
    );
    for (let i = 0; i < 200; i++) sum.write(pattern(20_000));
    sum.end();
  });
  assert.equal(await summed, "4000000");

  const chat = client.makeBidiStreamRequest(path("Chat"), same, same, new Metadata(), deadline());
  for (let i = 0; i < 5; i++) {
    const back = new Promise<Buffer>((resolve) => chat.once("data", resolve));
    chat.write(Buffer.from(`turn ${i}`));
    assert.equal((await back).toString(), `turn ${i}`);
  }
  const over = new Promise((resolve) => chat.once("status", resolve));
  chat.resume().end();
  await over;
  await until("all ended", () => lane.ended.length === 3);
  assert.deepEqual(
    new Set(lane.ended.map(({ outcome, grpcStatus }) => `${outcome} ${grpcStatus}`)),
    new Set(["finished 0"]),
  );
});

test("[RES-6] the deadline of a gRPC call is kept on the way: the server is let go and the client told", async (t) => {
  // Neither the client nor the server has a timer of its own.
  const reset: number[] = [];
  const server = createServer((request, response) => {
    request.on("aborted", () => reset.push(response.stream.rstCode));
    if (request.url === "/begun") response.writeHead(200, { "content-type": "application/grpc" }).write("abcdef");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const lane = await startLane((server.address() as AddressInfo).port, { upstream: "http2" });
  const session = connect(`http://127.0.0.1:${lane.port}`);
  t.after(async () => {
    session.destroy();
    await lane[Symbol.asyncDispose]();
    server.close();
  });
  const headers = { ":method": "POST", "content-type": "application/grpc", te: "trailers", "grpc-timeout": "50m" };
  const silent = session.request({ ...headers, ":path": "/silent" });
  const [answer] = (await once(silent, "response")) as [IncomingHttpHeaders];
  assert.deepEqual([answer[":status"], answer["grpc-status"], answer["grpc-message"]], [200, "4", "deadline exceeded"]);
  // Mostly the answer has begun by then, and the status comes behind it.
  const begun = session.request({ ...headers, "grpc-timeout": "500m", ":path": "/begun" });
  begun.resume();
  const told = new Promise((resolve) => {
    const look = (fields: IncomingHttpHeaders): void => {
      if (fields["grpc-status"] !== undefined) resolve(fields["grpc-status"]);
    };
    begun.on("response", look).on("trailers", look);
  });
  assert.equal(await told, "4");
  await until("the server is told", () => reset.length === 2 && lane.ended.length === 2);
  assert.deepEqual(reset, [8, 8]);
  for (const { outcome, grpcStatus } of lane.ended) assert.deepEqual([outcome, grpcStatus], ["request_timeout", "4"]);
});

test("[TRF-7] a gRPC call that its client gives up is given up towards the server too", async (t) => {
  const { client, lane } = await grpc(t);
  const call = client.makeUnaryRequest(path("One"), same, same, Buffer.from("never"), new Metadata(), () => {});
  await until("under way", () => [...lane.connections].some((c) => "streamCount" in c && c.streamCount === 1));
  call.cancel();
  await until("gone", () => lane.ended.length === 1);
  assert.equal(lane.ended[0]?.outcome, "client_gone");
});

test("[RES-6] a route's timeout that is shorter than the deadline of the call holds", async (t) => {
  const { client } = await grpc(t, {
    decide: (_head, _exchange, { http2 }) => ({ kind: "forward", upstream: http2, timeoutMs: 50 }),
  });
  const { code } = await unary(client, "never");
  assert.equal(code, status.DEADLINE_EXCEEDED);
});

test("[TRF-7] answers of our own reach a gRPC client as a status: refusals, no server, faults", async (t) => {
  const answer = (http: number, text: string) =>
    ({
      kind: "respond",
      status: http,
      headers: ["content-type", "text/plain", "x-why", "w"],
      body: Buffer.from(text),
    }) as const;
  const cases = [
    { http: 403, code: status.PERMISSION_DENIED },
    { http: 404, code: status.UNIMPLEMENTED },
    { http: 401, code: status.UNAUTHENTICATED },
    { http: 429, code: status.UNAVAILABLE },
    { http: 503, code: status.UNAVAILABLE },
    { http: 500, code: status.UNKNOWN },
    { http: 400, code: status.INTERNAL },
  ];
  let next = 0;
  const { client, lane } = await grpc(t, {
    decide: () => answer(cases[next]?.http ?? 500, "RBAC: access denied, 100 %\n"),
  });
  for (const [i, { code }] of cases.entries()) {
    next = i;
    const got = await unary(client, "x");
    assert.deepEqual([got.code, got.details], [code, "RBAC: access denied, 100 %"]);
  }
  await until("ended", () => lane.ended.length === cases.length);
  assert.ok(lane.ended.every((e) => e.status === 200 && e.grpcStatus !== ""));
});

test("[TRF-7] a gRPC call whose server cannot be reached or breaks off ends as unavailable, and is not left hanging", async (t) => {
  const { client, lane } = await grpc(t);
  const chat = client.makeBidiStreamRequest(path("Chat"), same, same, new Metadata(), deadline());
  const ended = new Promise<{ code: number }>((resolve) => chat.on("status", resolve));
  chat.on("error", () => {});
  chat.write(Buffer.from("a"));
  await new Promise((resolve) => chat.once("data", resolve));
  lane.pools.http2.destroy();
  assert.equal((await ended).code, status.UNAVAILABLE);
  assert.equal((await unary(client, "again")).code, status.OK);
  const nobody = await startLane(1, { upstream: "http2" });
  t.after(() => nobody[Symbol.asyncDispose]());
  const other = new Client(`127.0.0.1:${nobody.port}`, credentials.createInsecure());
  t.after(() => other.close());
  const got = await unary(other, "x");
  assert.deepEqual([got.code, got.details], [status.UNAVAILABLE, "connect refused"]);
});

test("[DP-28] gRPC is not sent to a port that is declared HTTP/1; the answer says what to declare", async (t) => {
  const { client, lane } = await grpc(t, { upstream: "http1" });
  const got = await unary(client, "x");
  assert.equal(got.code, status.UNIMPLEMENTED);
  assert.match(got.details, /appProtocol grpc/);
  assert.equal(lane.pools.http1.open, 0);
});
