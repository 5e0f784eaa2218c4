// What is seen of requests of a handed connection over real sockets: lines, trace headers at the server, spans.
import assert from "node:assert/strict";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { authorization, type MeshParts } from "../test/kit/mesh.ts";
import { endpoint, lane, web, web1 } from "../test/kit/request-lane.ts";
import { linesOf, observeAll } from "../test/kit/telemetry.ts";
import type { TraceSettings } from "./decide/trace/request-trace.ts";
import { editedFields } from "./forward/http2/translate.ts";
import { withTrace } from "./request-watch.ts";

test("[OBS-3] [OBS-4] [SEC-10] a request's line has its route, trace and answer; a refused one the policy, the rule and what decided", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const deny = authorization("no-admin", [{ to: [{ paths: ["/admin*"] }] }], { action: "deny" });
  const trial = authorization("trial", [{ to: [{ methods: ["GET"] }] }], { action: "deny", dryRun: true });
  const { get, told, watch } = await lane(t, {
    direction: "inbound",
    parts: { services: [web], workloads: [endpoint("a", "10.244.2.1")], authorizations: [deny, trial] },
    at,
    identity: "spiffe://cluster.local/ns/shop/sa/client",
    observe: observeAll,
    trace: { make: ["w3c", "request-id"], ratio: 0, exports: false },
  });
  assert.equal((await get("/admin/x?secret")).status, 403);
  assert.equal((await get("/a")).status, 200);
  watch.observer.close();
  const [denied, served] = linesOf(told);
  assert.deepEqual(
    [denied?.status, denied?.flags, denied?.denied, denied?.policy, denied?.rule, denied?.input, denied?.path],
    [403, "UAEX", true, "shop/no-admin", 0, 'path="/admin/x"', "/admin/x?secret"],
  );
  assert.deepEqual(
    [
      served?.status,
      served?.flags,
      served?.denied,
      served?.["dst.workload"],
      served?.["dst.service"],
      served?.["src.identity"],
    ],
    [200, "-", undefined, "shop/a", "shop/web", "spiffe://cluster.local/ns/shop/sa/client"],
  );
  assert.deepEqual(served?.notes, [{ kind: "would_deny", policy: "shop/trial", rule: 0 }]);
  assert.match(String(served?.trace_id), /^[0-9a-f]{32}$/);
  assert.match(String(served?.request_id), /^[0-9a-f-]{36}$/);
  assert.deepEqual(watch.notes.take(), [{ kind: "would_deny", policy: "shop/trial", count: 1 }]);
});

test("[OBS-4] trace headers reach the server; what a route sets holds over them; nothing is added where nothing is asked for", async (t) => {
  const seen: IncomingHttpHeaders[] = [];
  const server = createServer((q, s) => {
    seen.push(q.headers);
    s.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const at = { "10.244.2.1": (server.address() as AddressInfo).port };
  const parts: MeshParts = { services: [web], workloads: [endpoint("a", "10.244.2.1")] };
  const trace: TraceSettings = { make: ["w3c", "request-id", "correlation-id"], ratio: 1, exports: true };
  const { get, told, watch } = await lane(t, { parts, at, trace });
  await get("/a");
  watch.observer.close();
  const [span] = told.flatMap(({ spans }) => spans);
  assert.equal(seen[0]?.traceparent, `00-${span?.traceId}-${span?.spanId}-01`);
  assert.equal(seen[0]?.["x-correlation-id"], seen[0]?.["x-request-id"]);
  assert.deepEqual([span?.status, span?.path, span?.pod], [200, "/a", "shop/client"]);
  const plain = await lane(t, { parts, at });
  await plain.get("/a");
  for (const name of ["traceparent", "x-request-id", "x-correlation-id"]) assert.equal(seen[1]?.[name], undefined);
  const made = { remove: [], set: [], add: ["x-request-id", "made"] };
  const routed = { remove: [], set: ["x-request-id", "routed"], add: [] };
  assert.deepEqual(withTrace(made, routed), { remove: [], set: ["x-request-id", "routed"], add: [] });
  const fields = { list: ["x-request-id", "made"], lines: Buffer.from("x-request-id: made\r\n") };
  const madeAlone = { remove: [], set: [], add: [], made: fields };
  assert.deepEqual(withTrace(madeAlone, routed), { remove: [], set: ["x-request-id", "routed"], add: [] });
  const other = { remove: ["cookie"], set: ["x-team", "a"], add: ["x-request-id", "one more"] };
  assert.deepEqual(withTrace(madeAlone, other), { ...other, made: fields });
  assert.deepEqual(editedFields(["cookie", "c", "host", "h"], { ...other, made: fields }), [
    ...["x-team", "a", "x-request-id", "one more", "x-request-id", "made"],
  ]);
});
