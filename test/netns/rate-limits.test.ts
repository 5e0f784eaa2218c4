// Rate limits between real nodes: a policy in the folder acts within a second on the server's node, for clients there and elsewhere, over all
// data threads together; clients are told, the log names the policy, metrics count.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseIp } from "../../agent/base/ip.ts";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { call } from "../lab/unix-http.ts";

const page = `require("http").createServer((q, s) => s.end("served " + q.url)).listen(8080, "::")`;
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    clientPod("shop/beside", { node: "node2" }),
    nodePod("shop/web", page, { node: "node2" }),
    service("shop/web", "web", {}, httpPort),
  ),
};
const policy = (spec: object): string =>
  manifest({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "RateLimitPolicy",
    metadata: { name: "web", namespace: "shop" },
    spec: { targetRefs: [{ kind: "Service", name: "web" }], ...spec },
  });
const daily = (more: object): object => ({ limits: [{ name: "daily", requests: 20, per: "24h", ...more }] });

/** How often which status was answered, each request on a connection of its own. */
async function statuses(lab: TestLab, from: string, count: number): Promise<Record<string, number>> {
  const one = `curl -s -m 5 -o /dev/null -w "%{http_code}\\n" http://web/x`;
  const got = await lab.run(from, ["bash", "-c", `for i in $(seq ${count}); do ${one}; done`]);
  const seen: Record<string, number> = {};
  for (const status of got.stdout.trim().split("\n")) seen[status] = (seen[status] ?? 0) + 1;
  return seen;
}
const answer = async (lab: TestLab, from: string): Promise<string> =>
  (await lab.run(from, ["curl", "-s", "-m", "5", "-i", "http://web/x"])).stdout;

test("[LIM-1] [DP-24] [DP-25] a RateLimitPolicy acts within a second: 429 with RateLimit fields, over all threads, audited and counted", {
  skip: skipLab,
  timeout: 600_000,
}, async (t) => {
  const options = { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "2" } };
  await withLab(manifests, options, async (lab) => {
    await lab.ready("shop/web");
    assert.deepEqual(await statuses(lab, "shop/client", 30), { 200: 30 });

    await t.test("what is written acts on what is asked next", async (t) => {
      const first = { name: "first", key: { type: "Service" }, requests: 1, per: "24h" };
      lab.write("limit.yaml", policy({ limits: [first] }));
      const began = performance.now();
      await waitFor("the first limit", async () => /^HTTP\/1.1 429 /.test(await answer(lab, "shop/client")));
      t.diagnostic(`429 came ${Math.round(performance.now() - began)} ms after the policy was written`);
    });

    await t.test(
      "over the limit a client is told so, whichever node it is on; each address has its own bucket",
      async () => {
        lab.write("limit.yaml", policy(daily({})));
        for (const from of ["shop/client", "shop/beside"]) {
          // Until then the limit before it may still answer.
          const limited = await waitFor("the limit", async () => {
            const text = await answer(lab, from);
            return /^HTTP\/1.1 429 [\s\S]*^ratelimit-limit: 20\r$/im.test(text) ? text : undefined;
          });
          assert.match(limited, /^ratelimit-remaining: 0\r$/im);
          assert.match(limited, /^ratelimit-policy: 20;w=86400\r$/im);
          assert.match(limited, /^retry-after: [1-9][0-9]*\r$/im);
          assert.match(limited, /too many requests: try again in/);
        }
      },
    );

    await t.test("threads take from one bucket: exactly the limit is let through", async () => {
      const identity = daily({ name: "identity", key: { type: "Identity" }, requests: 25 });
      lab.write("limit.yaml", policy({ ...identity, responseHeaders: "Always" }));
      await waitFor("the new limit", async () =>
        /^HTTP\/1.1 200 [\s\S]*^ratelimit-limit: 25\r$/im.test(await answer(lab, "shop/client")),
      );
      // One was let through just now.
      assert.deepEqual(await statuses(lab, "shop/client", 40), { 200: 24, 429: 16 });
    });

    await t.test("explain names the limits of the server's pod", async () => {
      const { adminSocket } = lab.node("node2");
      const asked = { source: "shop/beside", destination: "shop/web:80" };
      const told = JSON.stringify(await call(adminSocket, `/v1/explain?${new URLSearchParams(asked)}`));
      assert.match(told, /shop\/web identity: 25 in 86400000 ms by identity/);
    });

    await t.test("a wrong policy is refused with its field, and the last good one stays", async () => {
      lab.write("limit.yaml", policy({ limits: [{ requests: -1 }] }));
      await waitFor("the refusal", async () => {
        return JSON.stringify(await lab.askController("/v1/status")).includes("spec.limits[0].requests");
      });
      assert.match(await answer(lab, "shop/client"), /^HTTP\/1.1 429 /);
    });

    await t.test("a dry run refuses nobody, and is noted", async () => {
      lab.write("limit.yaml", policy({ ...daily({ name: "trial", requests: 1 }), dryRun: true }));
      await waitFor("the dry run", async () => /^HTTP\/1.1 200 /.test(await answer(lab, "shop/client")));
      assert.deepEqual(await statuses(lab, "shop/client", 5), { 200: 5 });
      await waitFor("what was noted", async () => {
        const { adminSocket } = lab.node("node2");
        const reply = await call(adminSocket, "/metrics");
        if (!reply.ok) return false;
        const { text } = reply.value;
        return (
          /^fairlead_rate_limited_requests_total\{policy="shop\/web",limit="daily",enforced="true"\} [1-9]/m.test(
            text,
          ) &&
          /^fairlead_rate_limited_requests_total\{policy="shop\/web",limit="trial",enforced="false"\} [1-9]/m.test(
            text,
          ) &&
          /^istio_requests_total\{.*response_code="429".*\} [1-9]/m.test(text)
        );
      });
    });

    await t.test("the agent's log names policy, limit and client", async () => {
      const lines = () =>
        readFileSync(lab.node("node2").agentLog, "utf8")
          .split("\n")
          .filter((line) => line.includes('"rate_limited"'))
          .map((line) => JSON.parse(line));
      // Threads tell once a second.
      await waitFor("a line about the identity", () =>
        lines().some((line) => line.limit === "identity" && line.key.endsWith("/ns/shop/sa/client")),
      );
      const byAddress = lines().find((line) => line.limit === "daily");
      assert.equal(byAddress?.policy, "shop/web");
      assert.ok(parseIp(byAddress?.key) !== undefined, byAddress?.key);
      assert.equal(byAddress?.destination, "shop/web");
    });
  });
});
