// What operators see of HTTP requests between real nodes: access log lines, tap, spans at a collector, a real Prometheus.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  httpPort,
  manifest,
  namespace,
  nodePod,
  pod,
  readyOn,
  service,
} from "../kit/manifests.ts";
import { spansOf } from "../kit/otlp.ts";
import { waitFor } from "../kit/wait.ts";
import { nodePodGateway, podAddress } from "../lab/addresses.ts";
import { call } from "../lab/unix-http.ts";

const root = join(import.meta.dirname, "../..");
const nodes = ["node1", "node2"];
/** Tells its client which trace headers it got. */
const page = `require("http").createServer((q, s) => s.end(JSON.stringify(q.headers))).listen(8080, "::")`;
/** Takes spans, and gives what it took. */
const collector = `const got = [];
require("http").createServer((q, s) => {
  if (q.method === "GET") return void s.end(JSON.stringify(got));
  const parts = [];
  q.on("data", (d) => parts.push(d)).on("end", () => { got.push(Buffer.concat(parts).toString("base64")); s.end(); });
}).listen(4318, "::")`;
const collectorHost = 77;
const collectorAt = `http://${podAddress(1, collectorHost).v4}:4318`;

const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("watch", false),
    clientPod("shop/client", { node: "node1" }),
    nodePod("shop/web", page, { node: "node2" }),
    service("shop/web", "web", {}, httpPort),
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: { name: "web", namespace: "shop" },
      spec: {
        parentRefs: [{ group: "", kind: "Service", name: "web", port: 80 }],
        rules: [{ backendRefs: [{ name: "web", port: 80 }] }],
      },
    },
    authorization("shop/no-admin", {
      action: "DENY",
      rules: [{ to: [{ operation: { paths: ["/admin*"] } }] }],
    }),
    clientPod("watch/prometheus", { node: "node1" }),
    pod("watch/collector", [process.execPath, "-e", collector], {
      node: "node1",
      annotations: { "fairlead.dev/lab-address": String(collectorHost) },
      container: readyOn(4318),
    }),
  ),
};

type Line = Readonly<Record<string, unknown>>;
const linesIn = (file: string): readonly Line[] =>
  readFileSync(file, "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line)
    .filter((line) => line.type === "request");

async function get(lab: TestLab, path: string, ...more: readonly string[]): Promise<string> {
  const asked = ["curl", "-sS", "-m", "10", "-w", " %{http_code}", ...more, `http://web${path}`];
  const got = await lab.run("shop/client", asked);
  return got.stdout + got.stderr;
}

test("telemetry of requests between nodes", { skip: skipLab, timeout: 400_000 }, async (t) => {
  const agentEnv = {
    FAIRLEAD_DATA_THREADS: "1",
    FAIRLEAD_TRACE_ENDPOINT: `${collectorAt}/v1/traces`,
    FAIRLEAD_TRACE_SAMPLE: "1",
  };
  await withLab(manifests, { nodes: 2, agentEnv }, async (lab) => {
    for (const name of ["shop/web", "watch/collector"]) await lab.ready(name);

    let traceparent = "";
    await t.test("[OBS-4] the server gets trace headers that the client did not send, and those it did", async () => {
      const [headers = "", status] = (await get(lab, "/cart?token=1")).split(/ (?=\d+$)/);
      assert.equal(status, "200", headers);
      const got = JSON.parse(headers) as Record<string, string>;
      traceparent = got.traceparent ?? "";
      assert.match(traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
      assert.match(got["x-request-id"] ?? "", /^[0-9a-f-]{36}$/);
      assert.equal(got["x-correlation-id"], got["x-request-id"]);
      const own = await get(
        lab,
        "/own",
        "-H",
        "x-request-id: mine",
        "-H",
        `traceparent: ${traceparent.slice(0, 53)}00`,
      );
      assert.ok(own.includes('"x-request-id":"mine"') && own.includes(`${traceparent.slice(0, 53)}00`), own);
    });

    await t.test("[OBS-3] [SEC-10] lines on both nodes: route and trace, and the policy that denied", async () => {
      assert.match(await get(lab, "/admin/x"), /RBAC: access denied\n 403$/);
      const find = (node: string, path: string) =>
        waitFor(`${path} in the log of ${node}`, () => linesIn(lab.node(node).accessLog).find((l) => l.path === path));
      const sent = await find("node1", "/cart?token=1");
      assert.deepEqual(
        [sent.direction, sent.status, sent.method, sent["src.workload"], sent["dst.service"], sent.route, sent.flags],
        ["outbound", 200, "GET", "shop/client", "shop/web", "shop/web", "-"],
      );
      const served = await find("node2", "/cart?token=1");
      assert.deepEqual(
        [served.direction, served["src.identity"], served.trace_id, served.request_id],
        ["inbound", "spiffe://cluster.local/ns/shop/sa/client", sent.trace_id, sent.request_id],
      );
      assert.equal(sent.trace_id, traceparent.slice(3, 35));
      const denied = await find("node2", "/admin/x");
      assert.deepEqual(
        [denied.status, denied.flags, denied.denied, denied.policy, denied.rule, denied.input],
        [403, "UAEX", true, "shop/no-admin", 0, 'path="/admin/x"'],
      );
    });

    await t.test(
      "[OBS-4] both agents' spans reach the collector as one trace, the server's below the client's",
      async () => {
        const spans = await waitFor("both spans", async () => {
          const got = await lab.run("watch/prometheus", ["curl", "-sS", "-m", "5", `${collectorAt}/`]);
          if (got.code !== 0) return undefined;
          const bodies = JSON.parse(got.stdout) as readonly string[];
          const all = bodies.flatMap((body) => spansOf(Buffer.from(body, "base64")));
          const own = all.filter(
            (span) => span.traceId === traceparent.slice(3, 35) && span.attributes["url.path"] === "/cart",
          );
          return own.length === 2 ? own : undefined;
        });
        const client = spans.find((span) => span.kind === "client");
        const server = spans.find((span) => span.kind === "server");
        assert.deepEqual([server?.parentSpanId, client?.parentSpanId], [client?.spanId, ""]);
        assert.equal(server?.spanId, traceparent.slice(36, 52));
        assert.deepEqual([client?.resource["service.name"], server?.resource["service.name"]], ["client", "web"]);
      },
    );

    await t.test("[OBS-3] fairlead tap shows requests while they happen, by filter", async () => {
      const words = ["tap", "shop/web", "--lab", lab.name, "--status", "403", "--max", "1", "--json"];
      const tap = spawn(join(root, "bin/fairlead"), words, { stdio: ["ignore", "pipe", "pipe"] });
      t.after(() => tap.kill());
      let out = "";
      let err = "";
      tap.stdout.on("data", (b: Buffer) => {
        out += b.toString();
      });
      tap.stderr.on("data", (b: Buffer) => {
        err += b.toString();
      });
      const ended = new Promise<number | null>((resolve) => tap.once("close", resolve));
      let over = false;
      void ended.then(() => {
        over = true;
      });
      await waitFor("the tap's end", async () => {
        await get(lab, "/");
        await get(lab, "/admin/y");
        return over;
      });
      assert.equal(await ended, 0, err);
      const seen = JSON.parse(out) as Line;
      assert.deepEqual([seen.status, seen.path, seen.method], [403, "/admin/y", "GET"]);
      const top = execFileSync(join(root, "bin/fairlead"), ["top", "--once", "--lab", lab.name], { encoding: "utf8" });
      assert.match(top, /SOURCE +SERVICE +REQUESTS[\s\S]*shop\/client +shop\/web +\d+/);
    });

    await t.test(
      "[OBS-1] [OBS-2] a real Prometheus scrapes requests of both nodes, and promtool finds their text in order",
      async () => {
        const targets = nodes.map((_, i) => `${nodePodGateway(i + 1).v4}:15020`);
        const config = JSON.stringify({
          global: { scrape_interval: "1s" },
          scrape_configs: [{ job_name: "fairlead", static_configs: [{ targets }] }],
        });
        const options = "--config.file=/tmp/p.yml --storage.tsdb.path=/tmp/p --web.listen-address=127.0.0.1:9090";
        const script = `printf %s "$1" >/tmp/p.yml && exec prometheus ${options}`;
        const prometheus = await lab.start("watch/prometheus", ["sh", "-c", script, "sh", config]);
        try {
          const query = async (
            expression: string,
          ): Promise<readonly { metric: Record<string, string>; value: [number, string] }[]> => {
            const url = `http://127.0.0.1:9090/api/v1/query?query=${encodeURIComponent(expression)}`;
            // Until it has read its disk it answers 503.
            const got = await lab.run("watch/prometheus", ["curl", "-fsS", "-m", "5", url]);
            return got.code === 0 ? (JSON.parse(got.stdout).data?.result ?? []) : [];
          };
          const codes = 'sum by (reporter, response_code) (istio_requests_total{destination_service_name="web"})';
          const rows = await waitFor("both reporters in Prometheus", async () => {
            const found = await query(codes);
            return found.length >= 4 ? found : undefined;
          });
          const seen = rows.map(({ metric }) => `${metric.reporter} ${metric.response_code}`).sort();
          assert.deepEqual(seen, ["destination 200", "destination 403", "source 200", "source 403"]);
          const [p99] = await query(
            "histogram_quantile(0.99, sum by (le) (istio_request_duration_milliseconds_bucket))",
          );
          assert.ok(Number(p99?.value[1]) > 0, JSON.stringify(p99));
          // The request that was denied was denied once, on the server's node; both nodes decided about it.
          const sums = ["route_total", "route_denied_total", "lb_pick_total"].map((name) => `orchestrator_${name}`);
          const [routes, denied, picks] = await waitFor("decisions in Prometheus", async () => {
            const found = await Promise.all(sums.map((name) => query(`sum(${name}) > 0`)));
            const values = found.map(([row]) => Number(row?.value[1] ?? 0));
            return values.every((value) => value > 0) ? values : undefined;
          });
          assert.ok((routes as number) > (denied as number) && (picks as number) > 0, `${routes} ${denied} ${picks}`);
          const [pool] = await query('orchestrator_lb_pick_total{pool="shop/web:80",algo="ewma",healthy="true"}');
          assert.ok(Number(pool?.value[1]) > 0, JSON.stringify(pool));
          const left = await query("ratls_cert_expiry_seconds");
          assert.ok(left.length === 2 && left.every(({ value }) => Number(value[1]) > 0), JSON.stringify(left));
        } finally {
          prometheus.child.kill("SIGTERM");
        }
        for (const node of nodes) {
          const reply = await call(lab.node(node).adminSocket, "/metrics");
          assert.ok(reply.ok);
          checkMetrics(reply.value.text);
        }
      },
    );
  });
});

/** What promtool holds against metrics that are not named by others: units of Istio's are milliseconds, those of the process Node's own. */
function checkMetrics(text: string): void {
  let said = "";
  try {
    execFileSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
  } catch (error) {
    said = String((error as { stderr?: string }).stderr);
  }
  assert.deepEqual(
    said.split("\n").filter((line) => line !== "" && !/^(istio_|nodejs_)\w+ /.test(line)),
    [],
  );
}
