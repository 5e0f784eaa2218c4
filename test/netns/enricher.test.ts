// The enricher between real nodes: settings in the folder switch it on, headers of a trusted peer are believed and of others not, policies ask
// for the score, pairs are limited, and metrics and the log tell of it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { AnomalousPair } from "../../agent/enrich/tally.ts";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import { authorization, clientPod, httpPort, manifest, namespace, nodePod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { call } from "../lab/unix-http.ts";

const page = `require("http").createServer((q, s) => s.end("served " + q.url)).listen(8080, "::")`;
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("edge"),
    clientPod("shop/client", { node: "node1" }),
    clientPod("edge/gateway", { node: "node1" }),
    nodePod("shop/web", page, { node: "node2" }),
    service("shop/web", "web", {}, httpPort),
  ),
};
const settings = (enricher: object): string =>
  manifest({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "MeshSettings",
    metadata: { name: "mesh" },
    spec: { enricher: { enable_mesh_enricher: true, mesh_log_interval_seconds: 1, ...enricher } },
  });
const deny = (when: object): string =>
  manifest(authorization("shop/mesh", { action: "DENY", rules: [{ when: [when] }] }));

async function status(lab: TestLab, from: string, ...headers: readonly string[]): Promise<string> {
  const extra = headers.flatMap((header) => ["-H", header]);
  const command = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", ...extra, "http://web.shop/x"];
  return (await lab.run(from, command)).stdout;
}
async function metrics(lab: TestLab): Promise<string> {
  const reply = await call(lab.node("node2").adminSocket, "/metrics");
  return reply.ok ? reply.value.text : "";
}

test("[ENR-1] [ENR-2] [ENR-3] [ENR-4] [ENR-5] [ENR-6] the enricher in the lab: metadata, scores in policies, limits, metrics", {
  skip: skipLab,
  timeout: 600_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "2" } }, async (lab) => {
    await lab.ready("shop/web");

    await t.test("a policy about the score acts once the enricher is on; usual callers go on", async () => {
      // Until the policy is there everything is served: calls of another namespace score 0.3 more.
      lab.write("deny.yaml", deny({ key: "features.mesh.score", values: [">=0.3"] }));
      await waitFor("an answer", async () => (await status(lab, "edge/gateway")) === "200");
      lab.write("settings.yaml", settings({ mesh_score_weights: { unusual_pair: 0 } }));
      await waitFor("the score", async () => (await status(lab, "edge/gateway")) === "403");
      assert.equal(await status(lab, "shop/client"), "200");
    });

    await t.test("headers count from a trusted peer alone, and never against what is proven", async () => {
      lab.write("deny.yaml", deny({ key: "features.mesh.zone", values: ["mars"] }));
      await waitFor("the policy", async () => (await status(lab, "edge/gateway")) === "200");
      assert.equal(await status(lab, "edge/gateway", "x-k8s-zone: mars"), "200", "not trusted yet");
      lab.write("settings.yaml", settings({ mesh_trusted_peers: ["cluster.local/ns/edge/*"] }));
      await waitFor("the trust", async () => (await status(lab, "edge/gateway", "x-k8s-zone: mars")) === "403");
      assert.equal(await status(lab, "shop/client", "x-k8s-zone: mars"), "200");
      lab.write("deny.yaml", deny({ key: "features.mesh.namespace", values: ["admin"] }));
      await waitFor(
        "the policy",
        async () => (await status(lab, "edge/gateway", "x-k8s-zone: mars")) === "200",
        20_000,
      );
      assert.equal(await status(lab, "edge/gateway", "x-k8s-namespace: admin"), "200", "its identity says edge");
    });

    await t.test("a wrong setting is refused with its field, and the last good ones stay", async () => {
      lab.write("settings.yaml", settings({ mesh_cache_ttl_seconds: 0 }));
      const field = "spec.enricher.mesh_cache_ttl_seconds";
      await waitFor("the refusal", async () => JSON.stringify(await lab.askController("/v1/status")).includes(field));
      assert.equal(await status(lab, "shop/client"), "200");
    });

    await t.test("a pair over its limit is limited, on both threads together", async () => {
      lab.write("settings.yaml", settings({ mesh_pair_rpm_limit: 10 }));
      await waitFor("the limit", async () => (await status(lab, "shop/client")) === "429");
      assert.equal(await status(lab, "edge/gateway"), "200");
    });

    await t.test("denied and limited requests have a threat record, with what is known of their caller", async () => {
      type Threat = {
        readonly threat: string;
        readonly features?: { readonly mesh?: { readonly namespace?: string } };
      };
      const limited = await waitFor("the record", async () => {
        const told = (await lab.askAgent("node2", "/v1/threats")) as { readonly threats: readonly Threat[] };
        return told.threats.some(({ threat }) => threat === "denied") && told.threats.find(isLimited);
      });
      assert.equal(limited.features?.mesh?.namespace, "shop");
      function isLimited({ threat }: Threat): boolean {
        return threat === "limited";
      }
    });

    await t.test("metrics and the log tell of it", async () => {
      await waitFor("the metrics", async () => {
        const text = await metrics(lab);
        return [
          /^fairlead_mesh_requests_total\{namespace="edge"\} [1-9]/m,
          /^fairlead_mesh_service_requests_total\{service="shop\/web"\} [1-9]/m,
          /^fairlead_mesh_anomalies_total\{anomaly="cross_namespace"\} [1-9]/m,
          /^fairlead_threats_total\{kind="denied"\} [1-9]/m,
          /^fairlead_threats_total\{kind="limited"\} [1-9]/m,
          /^fairlead_mesh_limited_total\{by="pair"\} [1-9]/m,
        ].every((line) => line.test(text));
      });
      const gateway = await waitFor("the gateway's pair in the log", async () => {
        // A line comes with what threads tell, so there must be something to tell.
        await status(lab, "edge/gateway");
        return readFileSync(lab.node("node2").agentLog, "utf8")
          .split("\n")
          .filter((line) => line.includes('"mesh_anomalous_pairs"') && line.endsWith("}"))
          .flatMap((line) => JSON.parse(line).pairs as readonly AnomalousPair[])
          .find(({ source }) => source.startsWith("edge/"));
      });
      assert.equal(gateway.destination, "shop/web");
      assert.ok(gateway.anomalies.includes("cross_namespace"));
    });
  });
});
