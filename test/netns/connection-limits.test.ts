// Limits of TCP connections with a real server and client (redis): the connection beyond the limit is refused at once and explained, and
// let in when another has ended, between nodes and on one.
import assert from "node:assert/strict";
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, pod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import type { PodProgram } from "../lab/programs.ts";

const most = 2;
const policy = manifest({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: "few", namespace: "shop" },
  spec: {
    targetRefs: [{ kind: "Service", name: "cache" }],
    connectionPool: { maxConnections: most },
  },
});
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/near", { node: "node1" }),
    clientPod("shop/far", { node: "node2" }),
    pod(
      "shop/cache",
      [
        "redis-server",
        "--port",
        "6379",
        "--bind",
        "*",
        "-::*",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        "/tmp",
      ],
      { node: "node1", container: { readinessProbe: { exec: { command: ["redis-cli", "ping"] }, periodSeconds: 1 } } },
    ),
    service("shop/cache", "cache", { 6379: 6379 }),
  ),
  "policy.yaml": policy,
};

/** Has a connection until its input ends. */
const holder = `import socket, sys
s = socket.create_connection(("cache", 6379)); s.sendall(b"PING\\r\\n")
print("{}" if s.recv(7) == b"+PONG\\r\\n" else "null", flush=True)
sys.stdin.read()`;
/** One that has its connection; undefined: there is no place, as the one before may not quite have ended. */
async function hold(lab: TestLab, from: string): Promise<PodProgram | undefined> {
  const started = await lab.start(from, ["python3", "-c", holder]);
  const said = await started.next().catch(() => null);
  return said === null ? undefined : started;
}
const redis = (lab: TestLab, from: string, ...words: readonly string[]) =>
  lab.run(from, ["timeout", "60", "redis-cli", "-h", "cache", ...words], 90_000);
const refusals = async (lab: TestLab, node: string) =>
  (await lab.records(node)).filter((record) => record.reason === "connection_limit");

test(
  "[TRF-6] a service's limit of TCP connections: refused beyond it with the reason, let in again, explained",
  labOptions,
  async (t) => {
    await withLab(manifests, {}, async (lab) => {
      await lab.ready("shop/cache");
      for (const [from, node] of [
        ["shop/near", "node1"],
        ["shop/far", "node2"],
      ] as const)
        await t.test(`from ${node}`, async () => {
          await waitFor("the policy", async () => {
            const told = await lab.askAgent(node, `/v1/explain?source=${from}&destination=shop/cache:6379`);
            const limits = told.connectionLimits as { readonly maxConnections: number; readonly policy: string } | null;
            return limits?.maxConnections === most && limits.policy === "shop/few";
          });
          assert.equal((await redis(lab, from, "ping")).stdout, "PONG\n");
          // Each holds its connection.
          const holding: PodProgram[] = [];
          for (let i = 0; i < most; i++) {
            holding.push(await waitFor("a place", () => hold(lab, from)));
          }
          const refused = await redis(lab, from, "ping");
          assert.notEqual(refused.stdout, "PONG\n");
          assert.match(refused.stdout + refused.stderr, /reset by peer|closed the connection|Broken pipe/i);
          const record = (await waitFor("its record", async () => (await refusals(lab, node)).at(0))) as Record<
            string,
            unknown
          >;
          assert.deepEqual(
            [record.policy, record["dst.service"], record["src.workload"], record.lane, record.closed_by],
            ["shop/few", "shop/cache", from, "none", "agent"],
          );
          assert.ok((await lab.metric(node, "fairlead_connections_total", 'reason="connection_limit"')) >= 1);
          assert.ok(Number((await lab.askAgent(node, "/v1/counters")).connection_limit) >= 1);
          assert.ok((await lab.metric(node, "istio_tcp_connections_closed_total", 'response_flags="UO"')) >= 1);

          await holding.pop()?.end("");
          await waitFor("a place", async () => (await redis(lab, from, "ping")).stdout === "PONG\n");
          for (const held of holding) await held.end("");
        });
    });
  },
);
