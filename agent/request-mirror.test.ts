// Copies of requests to a mirror: the client's answer is its own server's, whatever becomes of the copy. Real sockets.
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, connect } from "node:net";
import { type TestContext, test } from "node:test";
import { member, service, workload } from "../test/kit/mesh.ts";
import { endpoint, lane, web, web1 } from "../test/kit/request-lane.ts";
import { backend, route, rule } from "../test/kit/routes.ts";
import { defaultPolicy } from "./api/http-policy.ts";
import type { HttpRoute } from "./api/http-routing.ts";

const mirror = (name: string, numerator = 100) => ({
  kind: "mirror" as const,
  value: { backend: backend(name), numerator, denominator: 100 },
});
const routeWith = (...filters: HttpRoute["rules"][number]["filters"]): HttpRoute =>
  route("web", [rule({ filters, backends: [backend("web")] })]);

interface Copy {
  readonly line: string;
  readonly body: string;
  readonly headers: IncomingMessage["headers"];
}
/** web.shop, with copies to shadow.shop; `silent`: the mirror reads nothing. */
async function mirrored(
  t: TestContext,
  filters: HttpRoute["rules"][number]["filters"],
  silent = false,
  protocol: "http1" | "http2" = "http1",
) {
  const copies: Copy[] = [];
  const server: Server = createServer((request, response) => {
    if (silent) return;
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => {
      copies.push({ line: `${request.method} ${request.url}`, body, headers: request.headers });
      response.writeHead(500).end("nobody reads this");
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const shadow = service("shop", "shadow", "10.96.0.2", [{ port: 80, nodePort: 0, protocol: "http" }]);
  const behind = workload("shop", "s", "10.244.2.2", {
    tunnel: "none",
    services: [member("shop", "shadow", 80, 8080)],
  });
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": (server.address() as AddressInfo).port };
  const routing = { name: "web", namespace: "shop", routes: [routeWith(...filters)], policy: defaultPolicy };
  const parts = { services: [web, shadow], workloads: [endpoint("a", "10.244.2.1"), behind], routings: [routing] };
  return { ...(await lane(t, { parts, at, protocol })), copies, server };
}
const until = async (isSo: () => boolean): Promise<void> => {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 5));
};

test("[TRF-5] every request is copied, body and edits included; the client sees its own server alone", async (t) => {
  const edits = { kind: "requestHeaders" as const, value: { remove: [], set: ["x-by", "route"], add: [] } };
  const { get, send, copies, mirrored: ends } = await mirrored(t, [edits, mirror("shadow")]);
  assert.equal((await get("/one?q")).body, "a GET /one?q");
  const long = "x".repeat(200_000);
  assert.equal((await send("/two", long)).body, "a POST /two");
  await until(() => copies.length === 2 && ends.length === 2);
  assert.deepEqual(
    copies.map(({ line, body, headers }) => [line, body.length, headers["x-by"], headers.host]),
    [
      ["GET /one?q", 0, "route", "web.shop"],
      ["POST /two", long.length, "route", "web.shop"],
    ],
  );
  assert.equal(copies[1]?.body, long);
  assert.deepEqual(ends, ["answered", "answered"]);
});

test("[TRF-5] a share of the requests is copied where the filter says so", async (t) => {
  const { get, copies } = await mirrored(t, [mirror("shadow", 25)]);
  for (let i = 0; i < 200; i++) await get("/");
  await until(() => copies.length >= 25);
  assert.ok(copies.length <= 80, `${copies.length} of 200`);
});

test("[TRF-5] a mirror that takes nothing, or is not there, holds up no request, and its copies are given up", async (t) => {
  const { send, mirrored: ends } = await mirrored(t, [mirror("shadow"), mirror("nothing")], true);
  assert.equal((await send("/up", "y".repeat(40_000_000))).body, "a POST /up");
  await until(() => ends.length === 2);
  assert.deepEqual(ends, ["failed", "too_slow"]);
});

for (const protocol of ["http1", "http2"] as const)
  test(`[TRF-5] copies of a request that breaks off end with it, and their servers see that they are not whole (${protocol})`, async (t) => {
    const { port, server, mirrored: ends } = await mirrored(t, [mirror("shadow")], false, protocol);
    const seen = { begun: 0, broken: 0 };
    server.on("request", (request: IncomingMessage) => {
      seen.begun++;
      request.once("error", () => seen.broken++);
    });
    let leave: () => void;
    if (protocol === "http1") {
      const client = connect(port, "127.0.0.1");
      client.write("POST /half HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 100\r\n\r\nhalf");
      leave = () => client.destroy();
    } else {
      const session = connectHttp2(`http://127.0.0.1:${port}`);
      const stream = session.request({ ":method": "POST", ":path": "/half", ":authority": "web.shop" });
      stream.on("error", () => {});
      stream.write("half");
      leave = () => session.destroy();
    }
    t.after(leave);
    await until(() => seen.begun === 1);
    leave();
    await until(() => ends.length === 1 && seen.broken === 1);
    assert.deepEqual(ends, ["cut_off"]);
  });
