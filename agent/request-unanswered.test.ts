// Requests that reached no server go to another, whichever node found out; and requests beyond a namespace's limit.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { member, workload } from "../test/kit/mesh.ts";
import { lane, web, web1 } from "../test/kit/request-lane.ts";
import { Tenants } from "./forward/tenants.ts";
import { unansweredField } from "./http.ts";

const behind = (name: string, address: string, tunnel: "fairlead/1" | "none") =>
  workload("shop", name, address, { tunnel, node: "" as never, services: [member("shop", "web", 80, 8080)] });

/** A server that answers as told; its port, and how often it was asked. */
async function saying(t: TestContext, status: number, headers: Readonly<Record<string, string>>) {
  let asked = 0;
  const server = createServer((_, response) => {
    asked++;
    response.writeHead(status, headers).end("said");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { port: (server.address() as AddressInfo).port, asked: () => asked };
}
const unsent = { [unansweredField]: "connect_refused" };

test("[DIS-6] [DP-29] the server's node tells an agent that a request reached nobody, and nobody else", async (t) => {
  for (const [tunnel, told] of [
    ["fairlead/1", "connect_refused"],
    ["hbone", undefined],
    ["plain", undefined],
  ] as const) {
    const parts = { workloads: [workload("shop", "a", "10.244.2.1")] };
    const { get } = await lane(t, { direction: "inbound", parts, at: {}, tunnel });
    const answer = await get("/");
    assert.deepEqual([answer.status, answer.headers[unansweredField]], [503, told], tunnel);
  }
});

test("[DP-12] [DP-29] a server cannot say that it was not asked", async (t) => {
  const liar = await saying(t, 503, unsent);
  const parts = { workloads: [workload("shop", "a", "10.244.2.1")] };
  const inbound = await lane(t, { direction: "inbound", parts, at: { "10.244.2.1": liar.port }, tunnel: "fairlead/1" });
  const answer = await inbound.get("/");
  assert.deepEqual([answer.status, answer.headers[unansweredField], answer.body], [503, undefined, "said"]);
  // Nor one that is spoken to plainly.
  const outbound = await lane(t, {
    parts: { services: [web], workloads: [behind("a", "10.244.2.1", "none"), behind("b", "10.244.2.2", "none")] },
    at: { "10.244.2.1": liar.port, "10.244.2.2": liar.port },
  });
  const before = liar.asked();
  const plain = await outbound.get("/");
  assert.deepEqual([plain.status, plain.headers[unansweredField], liar.asked() - before], [503, undefined, 1]);
});

test("[DIS-6] [DP-29] what reached nobody behind one tunnel goes to another endpoint, whatever the method", async (t) => {
  const closed = await saying(t, 503, unsent);
  const open = await web1(t, "b");
  const { get } = await lane(t, {
    parts: {
      services: [web],
      workloads: [behind("a", "10.244.2.1", "fairlead/1"), behind("b", "10.244.2.2", "fairlead/1")],
    },
    at: { "10.244.2.1": closed.port, "10.244.2.2": open },
  });
  for (let i = 0; i < 20; i++) {
    const method = i % 2 === 0 ? "GET" : "POST";
    assert.deepEqual(await get("/x", method).then((a) => [a.status, a.body]), [200, `b ${method} /x`]);
  }
  assert.ok(closed.asked() > 0, "it was tried");
});

test("[DIS-6] [DP-29] a connection that is lost before the answer: what may be sent twice goes to one more endpoint, on either node", async (t) => {
  const down = createServer((request) => void request.socket.resetAndDestroy());
  await new Promise<void>((resolve) => down.listen(0, "127.0.0.1", resolve));
  t.after(() => down.close());
  const { port } = down.address() as AddressInfo;
  const open = await web1(t, "b");
  // The agent on the server's node says what became of it, and leaves the rest to the client's.
  const parts = { workloads: [workload("shop", "a", "10.244.2.1")] };
  const inbound = await lane(t, { direction: "inbound", parts, at: { "10.244.2.1": port }, tunnel: "fairlead/1" });
  const told = await inbound.get("/");
  assert.deepEqual([told.status, told.headers[unansweredField]], [502, "upstream_reset"]);
  const lost = await saying(t, 502, { [unansweredField]: "upstream_reset" });
  for (const [tunnel, lostAt] of [
    ["none", port],
    ["fairlead/1", lost.port],
  ] as const) {
    const { get } = await lane(t, {
      parts: { services: [web], workloads: [behind("a", "10.244.2.1", tunnel), behind("b", "10.244.2.2", tunnel)] },
      at: { "10.244.2.1": lostAt, "10.244.2.2": open },
    });
    // What may have had an effect is not sent again.
    let posted = 200;
    for (let i = 0; i < 200 && posted === 200; i++) posted = (await get("/x", "POST")).status;
    assert.equal(posted, 502);
    for (let i = 0; i < 10; i++) {
      const answer = await get("/x");
      assert.deepEqual([answer.status, answer.body, answer.headers[unansweredField]], [200, "b GET /x", undefined]);
    }
  }
});

test("[DP-29] where there is no other endpoint the client gets the answer, without the word between agents", async (t) => {
  const closed = await saying(t, 503, unsent);
  const { get } = await lane(t, {
    parts: { services: [web], workloads: [behind("a", "10.244.2.1", "fairlead/1")] },
    at: { "10.244.2.1": closed.port },
  });
  const answer = await get("/");
  assert.deepEqual([answer.status, answer.headers[unansweredField]], [503, undefined]);
});

test("[SEC-8] requests of a namespace beyond its limit are answered 503 with the reason, and counted; its place is free again after", async (t) => {
  const port = await web1(t, "a");
  const tenants = new Tenants(
    { connections: 10, requests: 1, bytes: 1e6, share: 1 },
    { afterTurn() {}, afterLook() {}, nowUs: () => 1, cpuUs: () => 1 },
  );
  const tenant = tenants.of("shop");
  const { get, series } = await lane(t, {
    parts: { services: [web], workloads: [behind("a", "10.244.2.1", "none")] },
    at: { "10.244.2.1": port },
    tenant,
  });
  assert.equal((await get("/")).status, 200);
  assert.equal(tenant.requests, 0);
  assert.ok(tenant.begin());
  const refused = await get("/");
  assert.equal(refused.status, 503);
  assert.match(refused.body, /namespace shop has 1 requests under way here, its limit \(FAIRLEAD_NAMESPACE_REQUESTS\)/);
  tenant.end();
  assert.equal((await get("/")).status, 200);
  assert.equal(tenant.requests, 0);
  const flags = series.flush()?.deltas.map(({ labels }) => labels?.response_flags);
  assert.ok(flags?.includes("UO") === true, String(flags));
  assert.deepEqual(tenants.takeRefusals(), [{ namespace: "shop", limit: "requests", count: 1 }]);
});
