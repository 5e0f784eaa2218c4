// Records -> metrics, recent ones, access log: names, labels, bounds, speed.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { domain, service, workload } from "../../test/kit/mesh.ts";
import { encodeRecord } from "../../test/kit/records.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { workloadId } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { createMetrics } from "../base/metrics.ts";
import type { PlanFacts, VerdictFacts } from "../flow.ts";
import { openAccessLog } from "./access-log.ts";
import { ConnectionReport } from "./connection-report.ts";
import { createFactsBook } from "./facts-book.ts";
import type { Masks } from "./observed.ts";
import { decodeRecord } from "./wire-record.ts";

const client = workload("shop", "client", "10.244.1.5", { labels: { app: "client", version: "v1" } });
const db = workload("shop", "db", "10.244.2.6");
const web = service("shop", "web", "10.96.0.1", [{ port: 80 }]);
const plan: PlanFacts = {
  kind: "plan",
  source: client,
  sourceIdentity: workloadId(domain, "shop", "client"),
  destination: { ip: "10.96.0.1", port: 80 },
  service: web,
  protocol: "tcp",
  targets: [{ mode: "fairlead/1", workload: db }],
};
const verdict: VerdictFacts = {
  kind: "verdict",
  source: client,
  sourceIdentity: workloadId(domain, "shop", "client"),
  destination: db,
  destinationIdentity: workloadId(domain, "shop", "db"),
  port: 5432,
  tunnel: "local",
  service: web,
  verdict: { allow: true, reason: "allowed", policy: "shop/p" as never, rule: 0, notes: [] },
  direct: true,
};

function setUp(more: { log?: string; series?: number; kept?: number; masks?: Masks } = {}) {
  const metrics = createMetrics();
  const book = createFactsBook();
  const dropped = { count: 0 };
  const accessLog = openAccessLog(more.log ?? "off", more.masks ?? { addresses: false, queries: false }, {
    clock: systemClock,
    hostname: "node1",
    pid: 7,
    dropped(count) {
      dropped.count += count;
    },
  });
  assert.ok(accessLog.ok);
  const report = new ConnectionReport({
    book,
    metrics,
    seriesLimit: more.series ?? 100,
    recordsKept: more.kept ?? 4,
    accessLog: accessLog.value,
  });
  return { metrics, book, report, dropped, accessLog: accessLog.value };
}
const lines = (text: string, name: string) => text.split("\n").filter((line) => line.startsWith(name));

test("[OBS-1] Istio's names and labels, bytes in Istio's directions", async () => {
  const { metrics, book, report } = setUp();
  const id = book.plan("k", plan);
  report.records(
    Buffer.concat([encodeRecord({ plan: id, sent: 10, received: 500 }), encodeRecord({ plan: id, sent: 1 })]),
  );
  const text = await metrics.text();
  const [opened] = lines(text, "istio_tcp_connections_opened_total{");
  for (const label of [
    'reporter="source"',
    'source_workload="client"',
    'source_principal="spiffe://cluster.local/ns/shop/sa/client"',
    'source_version="v1"',
    'destination_workload="db"',
    'destination_principal="spiffe://cluster.local/ns/shop/sa/db"',
    'destination_service="web.shop.svc.cluster.local"',
    'destination_service_name="web"',
    'request_protocol="tcp"',
    'response_flags="-"',
    'connection_security_policy="mutual_tls"',
  ])
    assert.ok(opened?.includes(label), `${label} in ${opened}`);
  assert.ok(opened?.endsWith("} 2"));
  assert.ok(lines(text, "istio_tcp_sent_bytes_total{")[0]?.endsWith("} 500"));
  assert.ok(lines(text, "istio_tcp_received_bytes_total{")[0]?.endsWith("} 11"));
  assert.match(text, /fairlead_connections_total\{direction="outbound",lane="tunnel",reason="finished"\} 2/);
});

test("[OBS-1] a direct-lane record speaks for both ends; a refusal has its flag", async () => {
  const { metrics, book, report } = setUp();
  const id = book.verdict("v", verdict);
  report.records(encodeRecord({ lane: 0, verdict: id }));
  report.records(encodeRecord({ lane: 6, verdict: id, inbound: true, reason: 10 }));
  const closed = lines(await metrics.text(), "istio_tcp_connections_closed_total{");
  assert.deepEqual(closed.map((l) => /reporter="(\w+)"/.exec(l)?.[1]).sort(), ["destination", "destination", "source"]);
  assert.ok(closed.some((l) => l.includes('response_flags="UAEX"')));
});

test("[OBS-1] a connection counts as opened when it is, not when it ends; an end counts its opening only if nothing told of it", async () => {
  const { metrics, book, report } = setUp();
  const id = book.plan("k", plan);
  const total = async (name: string): Promise<number> =>
    lines(await metrics.text(), `${name}{`).reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  const opening = encodeRecord({ plan: id, sent: 3 });
  opening[0] = 2;
  report.records(opening);
  assert.deepEqual(
    [await total("istio_tcp_connections_opened_total"), await total("istio_tcp_connections_closed_total")],
    [3, 0],
  );
  assert.equal(report.recent.total, 0, "an opening is no record of a connection");
  report.records(
    Buffer.concat([encodeRecord({ plan: id, flags: 8 }), encodeRecord({ plan: id, flags: 8, reason: 2 })]),
  );
  report.records(encodeRecord({ plan: id, lane: 6, reason: 10 }));
  assert.deepEqual(
    [await total("istio_tcp_connections_opened_total"), await total("istio_tcp_connections_closed_total")],
    [4, 3],
  );
  assert.equal(await total("istio_tcp_received_bytes_total"), 0, "a count is no bytes");
});

test("[OBS-1] [OBS-3] a connection that a data thread carried byte for byte counts when it ends; being handed over is no end of it", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "access-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "access.log");
  const { metrics, book, report, accessLog } = setUp({ log: `file:${path}` });
  const planId = book.plan("k", plan);
  report.records(encodeRecord({ plan: planId, lane: 5, reason: 70 }));
  assert.deepEqual(lines(await metrics.text(), "istio_tcp_"), []);
  const ends = { lane: 1, closer: 2, id: 7, upstream: ["10.244.2.9", 8080] } as const;
  report.carried(encodeRecord({ plan: planId, ...ends, reason: 2, sent: 100, received: 5_000_000_000 }));
  const text = await metrics.text();
  const value = (name: string): number => Number(lines(text, `${name}{`)[0]?.split(" ").at(-1));
  assert.deepEqual(
    ["connections_opened", "connections_closed", "received_bytes", "sent_bytes"].map((n) =>
      value(`istio_tcp_${n}_total`),
    ),
    [1, 1, 100, 5_000_000_000],
  );
  assert.match(text, /fairlead_connections_total\{direction="outbound",lane="tunnel",reason="server_reset"\} 1/);
  await accessLog.close();
  const last = JSON.parse(readFileSync(path, "utf8").trim().split("\n").at(-1) as string) as Record<string, unknown>;
  assert.deepEqual(
    [last.reason, last.closed_by, last["src.addr"], last["dst.addr"], last["dst.upstream"], last.received, last.id],
    ["server_reset", "server", "10.244.1.5:40000", "10.96.0.1:80", "10.244.2.9:8080", 5_000_000_000, 7],
  );
});

test("[TRF-6] [OBS-3] a connection that a limit kept a data thread from carrying names the limit's policy", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "access-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "access.log");
  const { book, report, accessLog } = setUp({ log: `file:${path}` });
  const refused = () => encodeRecord({ plan: book.plan("k", plan), lane: 6, reason: 26 });
  for (const policy of ["shop/few", "shop/fewer", "shop/few"]) report.carried(refused(), policy);
  await accessLog.close();
  const logged = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    logged.map(({ reason, policy }) => [reason, policy]),
    ["shop/few", "shop/fewer", "shop/few"].map((policy) => ["connection_limit", policy]),
  );
  for (let i = 0; i < 2_000; i++) book.policyNumber(`shop/p${i}`);
  assert.deepEqual([book.policyNumber("shop/p1999"), book.policyNumber("shop/few") > 0], [0, true]);
});

test("[SEC-2] [OBS-3] what another agent refused names that agent's policy", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "access-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "access.log");
  const { book, report, accessLog } = setUp({ log: `file:${path}` });
  book.remotePolicy(1, "shop/deny-all");
  report.records(encodeRecord({ plan: book.plan("k", plan), lane: 6, reason: 10, policy: 1 }));
  await accessLog.close();
  const line = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  assert.deepEqual([line.policy, line.reason, line.direction], ["shop/deny-all", "policy_denied", "outbound"]);
});

test("[OBS-1] label sets are bounded: the rest counts under other, and how often is counted", async () => {
  const { metrics, book, report } = setUp({ series: 3 });
  for (let i = 0; i < 10; i++) {
    const source = workload("shop", `client-${i}`, "10.244.1.5");
    report.records(encodeRecord({ plan: book.plan(`k${i}`, { ...plan, source }) }));
  }
  const opened = lines(await metrics.text(), "istio_tcp_connections_opened_total{");
  assert.ok(opened.length <= 4, `${opened.length}`);
  const total = opened.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  assert.equal(total, 10);
  assert.match(await metrics.text(), /fairlead_metric_series_overflow_total 7/);
});

test("a record whose facts are gone is counted, not lost silently", async () => {
  const { metrics, report } = setUp();
  report.records(encodeRecord({ plan: 77 }));
  assert.match(await metrics.text(), /fairlead_records_without_facts_total 1/);
  assert.equal(report.recent.total, 1);
});

test("the last records are kept, newest first, and no more than asked for", () => {
  const { report } = setUp({ kept: 4 });
  for (let id = 1; id <= 6; id++) report.records(encodeRecord({ id }));
  const ids = report.recent.last(10).map((b) => decodeRecord(b, 0, () => "").id);
  assert.deepEqual(ids, [6, 5, 4, 3]);
  assert.equal(report.recent.last(2).length, 2);
});

test("[OBS-3] one line per connection, every value escaped: no name can begin a line of its own", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "access-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "access.log");
  const { book, report, accessLog } = setUp({ log: `file:${path}` });
  const evil = { ...client, name: 'x"\n{"forged":true}' };
  const id = book.plan("k", { ...plan, source: evil });
  report.records(encodeRecord({ plan: id, sent: 7, upstream: ["fd00::6", 8080] }));
  await accessLog.close();
  const written = readFileSync(path, "utf8").split("\n").filter(Boolean);
  assert.equal(written.length, 1);
  const line = JSON.parse(written[0] ?? "") as Record<string, unknown>;
  assert.equal(line["src.workload"], 'shop/x"\n{"forged":true}');
  assert.equal(line["dst.upstream"], "[fd00::6]:8080");
  assert.equal(line["dst.identity"], "spiffe://cluster.local/ns/shop/sa/db");
  assert.deepEqual([line.lane, line.sent, line.reason, line["dst.service"]], ["tunnel", 7, "finished", "shop/web"]);
});

test("[OBS-3] a log that cannot be written costs lines, never connections: they are counted", async () => {
  const { report, dropped } = setUp({ log: "file:/dev/full" });
  await waitFor("lines are counted as lost", () => {
    report.records(encodeRecord({}));
    return dropped.count > 0;
  });
});

test("facts are kept for the last of them, and equal ones share a number", () => {
  const book = createFactsBook();
  assert.equal(book.plan("a", plan), book.plan("a", plan));
  const first = book.plan("first", plan);
  for (let i = 0; i < 70_000; i++) book.plan(`k${i}`, plan);
  assert.equal(book.planFacts(first), undefined);
  assert.ok(book.sizes.plans <= 65_536);
  assert.ok(book.plan("first", plan) > first, "a number never comes back");
});

test("[OBS-1] 15,000 records a second take a small part of one core", () => {
  const { book, report } = setUp({ kept: 1024 });
  const ids = Array.from({ length: 100 }, (_, i) => book.plan(`k${i}`, plan));
  const frame = Buffer.concat(ids.map((id) => encodeRecord({ plan: id })));
  for (let i = 0; i < 50; i++) report.records(frame);
  const before = process.cpuUsage();
  for (let i = 0; i < 150; i++) report.records(frame);
  const { user, system } = process.cpuUsage(before);
  assert.ok((user + system) / 1000 < 500, `${(user + system) / 1000} ms for 15,000 records`);
});
