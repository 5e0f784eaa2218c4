// Calls of gRPC as requests of a handed connection: where they may go, how they are counted, and when they are tried again.
import assert from "node:assert/strict";
import { createServer as createHttp1 } from "node:http";
import { connect, createServer, type IncomingHttpHeaders } from "node:http2";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { member, service, workload } from "../test/kit/mesh.ts";
import { lane } from "../test/kit/request-lane.ts";
import { waitFor } from "../test/kit/wait.ts";
import { defaultPolicy, noRetry } from "./api/http-policy.ts";

const address = "10.244.2.1";
const declared = (protocol: string) => service("shop", "web", "10.96.0.1", [{ port: 80, nodePort: 0, protocol }]);
const server = (name: string, ip: string) =>
  workload("shop", name, ip, { tunnel: "none", services: [member("shop", "web", 80, 8080)] });

/** A server of HTTP/2 that ends calls with the statuses that it is given, then with 0; heads that it gets go to `seen`. */
async function statusServer(t: TestContext, statuses: number[], seen: IncomingHttpHeaders[] = []): Promise<number> {
  const made = createServer((request, response) => {
    seen.push(request.headers);
    const status = statuses.shift() ?? 0;
    const head = { "content-type": "application/grpc", ...(status === 0 ? {} : { "grpc-status": String(status) }) };
    response.writeHead(200, head);
    if (status === 0) response.addTrailers({ "grpc-status": "0" });
    response.end();
  });
  await new Promise<void>((resolve) => made.listen(0, "127.0.0.1", resolve));
  t.after(() => made.close());
  return (made.address() as AddressInfo).port;
}

/** Makes a call; its status and message. */
function caller(t: TestContext, port: number) {
  const session = connect(`http://127.0.0.1:${port}`);
  t.after(() => session.destroy());
  return (path: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const head = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
      const stream = session.request(head, { endStream: false });
      const look = (fields: IncomingHttpHeaders): void => {
        const { "grpc-status": status, "grpc-message": message } = fields;
        if (status !== undefined) resolve(`${status} ${message ?? ""}`.trim());
      };
      stream.on("response", look).on("trailers", look).on("error", reject);
      stream.resume();
      stream.end(Buffer.alloc(5));
    });
}

test("[OBS-1] [TRF-7] calls are counted as gRPC with their status, whoever gave it", async (t) => {
  const at = { [address]: await statusServer(t, [5, 0, 0]) };
  const parts = { services: [declared("grpc")], workloads: [server("a", address)] };
  const { port, series } = await lane(t, { parts, at, protocol: "http2" });
  const call = caller(t, port);
  assert.deepEqual([await call("/s/A"), await call("/s/A"), await call("/s/A")], ["5", "0", "0"]);
  const names = new Map<number, string>();
  const counted = new Map<string | undefined, number>();
  await waitFor("all of them", () => {
    for (const { id, labels, count } of series.flush()?.deltas ?? []) {
      if (labels !== undefined)
        names.set(id, `${labels.request_protocol} ${labels.response_code} ${labels.grpc_response_status}`);
      counted.set(names.get(id), (counted.get(names.get(id)) ?? 0) + count);
    }
    return counted.get("grpc 200 5") === 1 && counted.get("grpc 200 0") === 2;
  });
  assert.equal(counted.size, 2);
});

test("[RES-5] a call that failed at once with a status that its policy names is tried again; others are not", async (t) => {
  const statuses = [14, 14, 0, 9];
  const at = { [address]: await statusServer(t, statuses) };
  const retry = { ...noRetry, attempts: 2, grpcCodes: [14], anyMethod: true, backoffMs: 1, maxBackoffMs: 1 };
  const routing = { name: "web", namespace: "shop", routes: [], policy: { ...defaultPolicy, retry } };
  const parts = { services: [declared("grpc")], workloads: [server("a", address)], routings: [routing] };
  const { port } = await lane(t, { parts, at, protocol: "http2" });
  const call = caller(t, port);
  assert.equal(await call("/s/A"), "0");
  assert.equal(await call("/s/A"), "9");
  assert.equal(statuses.length, 0);
});

test("[OBS-4] every try of a call carries the trace that was made for it", async (t) => {
  const seen: IncomingHttpHeaders[] = [];
  const at = { [address]: await statusServer(t, [14, 0], seen) };
  const retry = { ...noRetry, attempts: 1, grpcCodes: [14], anyMethod: true, backoffMs: 1, maxBackoffMs: 1 };
  const routing = { name: "web", namespace: "shop", routes: [], policy: { ...defaultPolicy, retry } };
  const parts = { services: [declared("grpc")], workloads: [server("a", address)], routings: [routing] };
  const trace = { make: ["w3c" as const], ratio: 0, exports: false };
  const { port } = await lane(t, { parts, at, protocol: "http2", trace });
  assert.equal(await caller(t, port)("/s/A"), "0");
  assert.equal(seen.length, 2);
  assert.match(seen[0]?.traceparent as string, /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
  assert.equal(seen[1]?.traceparent, seen[0]?.traceparent);
});

test("[DP-28] a service is spoken to as its port is declared, whatever the client speaks; gRPC is not sent to HTTP/1", async (t) => {
  const made = createHttp1((request, response) => response.end(`http1 ${request.url}`));
  await new Promise<void>((resolve) => made.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    made.closeAllConnections();
    made.close();
  });
  const at = { [address]: (made.address() as AddressInfo).port };
  const parts = { services: [declared("http")], workloads: [server("a", address)] };
  const { port } = await lane(t, { parts, at, protocol: "http2" });
  assert.match(
    await caller(t, port)("/s/A"),
    /^12 gRPC does not go to a port that is declared HTTP\/1: .*appProtocol grpc/,
  );
  const session = connect(`http://127.0.0.1:${port}`);
  t.after(() => session.destroy());
  const stream = session.request({ ":path": "/plain" });
  let body = "";
  for await (const chunk of stream as AsyncIterable<Buffer>) body += chunk.toString();
  assert.equal(body, "http1 /plain");

  const two = createServer((request, response) => void response.end(`http2 ${request.url}`));
  await new Promise<void>((resolve) => two.listen(0, "127.0.0.1", resolve));
  t.after(() => two.close());
  const { get } = await lane(t, {
    parts: { services: [declared("http2")], workloads: [server("a", address)] },
    at: { [address]: (two.address() as AddressInfo).port },
  });
  assert.equal((await get("/up")).body, "http2 /up");
});
