// Spans to a real receiver of OTLP over HTTP: what arrives, batches, and a collector that is away, slow or refuses.
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { spansOf } from "../../test/kit/otlp.ts";
import { requestRecord } from "../../test/kit/telemetry.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import type { RequestRecord } from "./observed.ts";
import { hrTime, SpanMaker } from "./span.ts";
import { SpanExport } from "./span-export.ts";

const masks = { addresses: false, queries: false };

async function collector(t: TestContext, answer?: (response: ServerResponse) => void) {
  const bodies: Buffer[] = [];
  const server: Server = createServer((request: IncomingMessage, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      bodies.push(Buffer.concat(chunks));
      assert.equal(request.url, "/v1/traces");
      assert.equal(request.headers["content-type"], "application/x-protobuf");
      if (answer === undefined) response.writeHead(200, { "content-type": "application/x-protobuf" }).end();
      else answer(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`, bodies };
}

function exporter(url: string, timeoutMs = 2_000) {
  const seen = { sent: 0, dropped: 0, states: [] as (string | undefined)[] };
  const spans = new SpanExport({
    url,
    timeoutMs,
    clock: systemClock,
    maker: new SpanMaker({ node: "node1", version: "1.2.3", masks }),
    sent(count) {
      seen.sent += count;
    },
    dropped(count) {
      seen.dropped += count;
    },
    state: (why) => seen.states.push(why),
  });
  return { spans, seen };
}
const many = (count: number, more: Partial<RequestRecord> = {}): RequestRecord[] =>
  Array.from({ length: count }, () => requestRecord(more));

test("[OBS-4] a span arrives with its place in the trace, its times, and names by the conventions", async (t) => {
  const { url, bodies } = await collector(t);
  const { spans, seen } = exporter(url);
  spans.add([
    requestRecord({ parentSpanId: "b7ad6b7169203331", traceState: "congo=t61" }),
    requestRecord({
      direction: "inbound",
      pod: "shop/web",
      status: 403,
      flags: "UAEX",
      denied: true,
      policy: "shop/no-admin",
      policyRule: 0,
      method: "BREW",
      route: "",
    }),
    requestRecord({ direction: "inbound", pod: "shop/web", status: 503, flags: "UF", outcome: "connect_refused" }),
  ]);
  await spans.close();
  assert.deepEqual(seen, { sent: 3, dropped: 0, states: [] });
  const [out, denied, failed] = spansOf(bodies[0] as Buffer);
  assert.deepEqual(
    { ...out, attributes: undefined },
    {
      traceId: "4bf92f3577b34da6a3ce929d0e0e4736",
      spanId: "00f067aa0ba902b7",
      parentSpanId: "b7ad6b7169203331",
      traceState: "congo=t61",
      name: "GET shop/web",
      kind: "client",
      startNs: 1_700_000_000_000_000_000n,
      endNs: 1_700_000_000_012_500_000n,
      status: "unset",
      scope: "fairlead 1.2.3",
      resource: {
        "service.name": "client",
        "service.namespace": "shop",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "client",
        "k8s.node.name": "node1",
      },
      attributes: undefined,
    },
  );
  for (const [key, value] of Object.entries({
    "http.request.method": "GET",
    "http.response.status_code": 200,
    "url.path": "/cart/7",
    "url.query": "token=abc",
    "server.address": "web.shop",
    "client.address": "10.244.1.5",
    "network.peer.address": "10.244.2.1",
    "fairlead.source.workload": "shop/client",
    "fairlead.route": "shop/web",
  }))
    assert.equal(out?.attributes[key], value, key);
  assert.deepEqual([denied?.name, denied?.kind, denied?.status], ["HTTP", "server", "unset"]);
  assert.deepEqual(
    [
      denied?.attributes["fairlead.policy"],
      denied?.attributes["fairlead.denied"],
      denied?.attributes["http.request.method"],
    ],
    ["shop/no-admin", true, "_OTHER"],
  );
  assert.deepEqual([failed?.status, failed?.attributes["error.type"]], ["error", "connect_refused"]);
  assert.equal(denied?.resource["service.name"], "web");
});

test("[OBS-4] spans go in batches, none twice", async (t) => {
  const { url, bodies } = await collector(t);
  const { spans, seen } = exporter(url);
  for (let i = 0; i < 20; i++) spans.add(many(100, { spanId: `00000000000000${(i + 16).toString(16)}` }));
  await waitFor("all of them", () => seen.sent >= 1_536);
  await spans.close();
  assert.deepEqual([seen.sent, seen.dropped], [2_000, 0]);
  assert.equal(
    bodies.reduce((sum, body) => sum + spansOf(body).length, 0),
    2_000,
  );
  assert.ok(bodies.length <= 6, String(bodies.length));
});

test("[OBS-4] a collector that is away costs spans, which are counted, and is used again when it is back", async (t) => {
  let status = 500;
  const { url } = await collector(t, (response) => response.writeHead(status).end());
  const { spans, seen } = exporter(url);
  t.after(() => spans.close());
  spans.add(many(600));
  await waitFor("dropped", () => seen.dropped >= 512);
  assert.equal(seen.states.length, 1);
  assert.notEqual(seen.states[0], undefined);
  status = 200;
  spans.add(many(600));
  await waitFor("sent", () => seen.sent > 0);
  assert.deepEqual([seen.states.length, seen.states[1]], [2, undefined]);
});

test("[OBS-4] a collector that does not answer: what waits is bounded, what is more is counted, and the end does not wait for it", async (t) => {
  const held: ServerResponse[] = [];
  const { url } = await collector(t, (response) => held.push(response));
  const { spans, seen } = exporter(url, 1_000);
  for (let i = 0; i < 200; i++) spans.add(many(100));
  assert.equal(seen.dropped, 20_000 - 512 - 8_192);
  await spans.close();
  assert.deepEqual([seen.sent, seen.dropped], [0, 20_000]);
});

test("times keep their nanoseconds", () => {
  assert.deepEqual(hrTime(1_700_000_000_012.5), [1_700_000_000, 12_500_000]);
  assert.deepEqual(hrTime(0.25), [0, 250_000]);
});
