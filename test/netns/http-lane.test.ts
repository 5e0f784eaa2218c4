// The HTTP lane between real nodes: requests routed, judged on the server's node and counted, with real clients and servers.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { explainPair } from "../../cli/explain.ts";
import { labView } from "../../cli/mesh.ts";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  httpPort,
  manifest,
  namespace,
  nodePod,
  peerAuthentication,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const page = (name: string): string =>
  `const hash = require("crypto").createHash;
require("http").createServer((q, s) => {
  if (q.url === "/cut") return void s.write("x".repeat(100000), () => setTimeout(() => s.socket.resetAndDestroy(), 200));
  if (q.url === "/bytes") return void s.end(Buffer.alloc(20_000_000, "bytes"));
  if (q.method !== "POST") return void s.end("${name} " + q.method + " " + q.url);
  const sum = hash("sha256");
  q.on("data", (d) => sum.update(d)).on("end", () => s.end(sum.digest("hex")));
}).listen(8080, "::")`;
const webPod = (name: string, node: string): unknown => nodePod(`shop/${name}`, page(name), { node });
const route = {
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "HTTPRoute",
  metadata: { name: "web", namespace: "shop" },
  spec: {
    parentRefs: [{ group: "", kind: "Service", name: "web", port: 80 }],
    rules: [
      {
        matches: [{ path: { type: "PathPrefix", value: "/new" } }],
        filters: [
          { type: "URLRewrite", urlRewrite: { path: { type: "ReplacePrefixMatch", replacePrefixMatch: "/old" } } },
        ],
        backendRefs: [{ name: "canary", port: 80 }],
      },
      { matches: [{ path: { type: "PathPrefix", value: "/" } }], backendRefs: [{ name: "web", port: 80 }] },
    ],
  },
};
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    peerAuthentication("shop/strict", "STRICT"),
    clientPod("shop/client", { node: "node1" }),
    clientPod("shop/beside", { node: "node2" }),
    webPod("web", "node2"),
    webPod("canary", "node1"),
    service("shop/web", "web", {}, httpPort),
    service("shop/canary", "canary", {}, httpPort),
  ),
};

/** Long bodies down and up in turn on one kept connection, each compared by hash. */
const longBodies = `
const { Agent, request } = require("http");
const { createHash } = require("crypto");
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const sum = (data) => createHash("sha256").update(data).digest("hex");
const ports = new Set();
const ask = (method, path, body) => new Promise((resolve, reject) => {
  const call = request({ agent, host: "web", path, method, headers: { "content-length": body?.length ?? 0 } }, (answer) => {
    ports.add(answer.socket.localPort);
    const all = [];
    answer.on("data", (data) => all.push(data)).on("end", () => resolve(Buffer.concat(all))).on("error", reject);
  });
  call.on("error", reject).end(body);
});
(async () => {
  const down = sum(Buffer.alloc(20_000_000, "bytes"));
  const body = require("crypto").randomBytes(16 * 2 ** 20);
  const said = [];
  for (const method of ["GET", "POST", "GET", "POST"]) {
    const got = method === "GET" ? sum(await ask("GET", "/bytes")) : String(await ask("POST", "/up", body));
    said.push(got === (method === "GET" ? down : sum(body)) ? method : got);
  }
  if (String(await ask("GET", "/last")).startsWith("web GET /last")) said.push("GET");
  console.log(said.join(" ") + " on " + ports.size + " connection");
  agent.destroy();
})().catch((error) => { console.error(error); process.exit(1); });
`;

/** Bodies that native has been given to move. */
async function joins(lab: TestLab, node: string): Promise<number> {
  return Number((await lab.askAgent(node, "/v1/counters")).joins ?? 0);
}

async function fetch(lab: TestLab, from: string, path: string): Promise<string> {
  const got = await lab.run(from, ["curl", "-sS", "-m", "30", "-w", " %{http_code}", `http://web${path}`]);
  return got.stdout + got.stderr;
}

test("[TRF-1] [SEC-1] [IDN-8] [OBS-1] requests between nodes are routed, judged where the server is, and counted", {
  skip: skipLab,
  timeout: 600_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["web", "canary"]) await lab.ready(`shop/${name}`);

    await t.test("without a route and policy every request is served, through the tunnel and on the node", async () => {
      for (const from of ["shop/client", "shop/beside"])
        assert.equal(await fetch(lab, from, "/new/1"), "web GET /new/1 200", from);
    });

    await t.test("an HTTPRoute acts within a second, on kept connections too", async () => {
      lab.write("route.yaml", manifest(route));
      for (const from of ["shop/client", "shop/beside"])
        await waitFor("the route", async () => (await fetch(lab, from, "/new/1?q")) === "canary GET /old/1?q 200");
      assert.equal(await fetch(lab, "shop/client", "/shop"), "web GET /shop 200");
    });

    await t.test("a policy about paths is asked on the server's node, whichever node the client is on", async () => {
      const deny = { action: "DENY", rules: [{ to: [{ operation: { paths: ["/admin*"] } }] }] };
      lab.write("deny.yaml", manifest(authorization("shop/no-admin", deny)));
      for (const from of ["shop/client", "shop/beside"]) {
        await waitFor("the policy", async () => /RBAC: access denied\n 403$/.test(await fetch(lab, from, "/admin/x")));
        assert.equal(await fetch(lab, from, "/shop"), "web GET /shop 200", from);
      }
    });

    await t.test("[SEC-10] explain says where a request goes, and which policy, rule and input refuse it", async () => {
      const status = await lab.status();
      for (const source of ["shop/client", "shop/beside"]) {
        const routed = await explainPair(labView(status), source, "shop/web:80", [["path", "/new/1?q"]]);
        const request = routed.outbound.request as Record<string, unknown>;
        assert.deepEqual(
          [routed.verdict, request.route, request.rule, request.path, routed.legs.map((l) => l.endpoint.workload)],
          ["allow", "shop/web", 0, "/old/1?q", ["shop/canary"]],
        );
        const denied = await explainPair(labView(status), source, "shop/web:80", [["path", "/admin/x"]]);
        const said = denied.legs[0]?.inbound ?? (denied.legs[0]?.endpoint.verdict as Record<string, unknown>);
        assert.deepEqual(
          [denied.verdict, denied.policy, said.rule, said.input],
          ["refuse", "shop/no-admin", 0, 'path="/admin/x"'],
        );
        assert.equal((await explainPair(labView(status), source, "shop/web:80", [["path", "/shop"]])).verdict, "allow");
      }
    });

    await t.test("[INT-9] bodies arrive whole both ways; one that the server cuts is seen as cut", async () => {
      for (const from of ["shop/client", "shop/beside"]) {
        const sum = createHash("sha256").update(Buffer.alloc(20_000_000, "bytes")).digest("hex");
        const round = `curl -sS -m 60 http://web/bytes | tee >(sha256sum >&2) | curl -sS -m 60 --data-binary @- http://web/up`;
        const got = await lab.run(from, ["bash", "-c", round]);
        assert.equal(got.stdout, sum, `${from}: ${got.stderr}`);
        assert.ok(got.stderr.includes(sum), got.stderr);
        const cut = await lab.run(from, ["curl", "-sS", "-m", "60", "-o", "/dev/null", "http://web/cut"]);
        assert.match(cut.stderr, /curl: \((18|56)\)/);
      }
    });

    await t.test("[INT-9] 16 MiB both ways on one connection, moved by native, and then it is used again", async () => {
      for (const [from, nodes] of [
        ["shop/client", ["node1", "node2"]],
        ["shop/beside", ["node2"]],
      ] as const) {
        const before = await Promise.all(nodes.map((node) => joins(lab, node)));
        const got = await lab.run(from, [process.execPath, "-e", longBodies]);
        assert.equal(got.stdout.trim(), "GET POST GET POST GET on 1 connection", `${from}: ${got.stderr}`);
        // The first answer may come on a connection that requests share: nobody knew how long it would be.
        for (const [i, node] of nodes.entries())
          await waitFor(`joins at ${node}`, async () => (await joins(lab, node)) >= (before[i] as number) + 3);
      }
    });

    await t.test("both sides count requests with Istio's labels", async () => {
      const line = (reporter: string, code: string): RegExp =>
        new RegExp(
          `^istio_requests_total\\{reporter="${reporter}".*source_workload="client".*response_code="${code}".*\\} [1-9]`,
          "m",
        );
      await waitFor("metrics", async () => {
        const source = await lab.metrics("node1");
        const destination = await lab.metrics("node2");
        return line("source", "200").test(source) && line("destination", "403").test(destination);
      });
    });
  });
});
