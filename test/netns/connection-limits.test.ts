// Limits of TCP connections with a real server and client (redis): the connection beyond the limit is refused at once and explained, and
// let in when another has ended, between nodes and on one.
import assert from "node:assert/strict";
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, pod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import type { PodProgram } from "../lab/programs.ts";

const most = 2;
/** By the Service's own address, and by its pod's, as clients of a headless one do. */
const hosts = ["cache", "members"] as const;
const policy = manifest(
  ...hosts.map((name) => ({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "ResiliencePolicy",
    metadata: { name: `few-${name}`, namespace: "shop" },
    spec: { targetRefs: [{ kind: "Service", name }], connectionPool: { maxConnections: most } },
  })),
);
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
    service("shop/members", "cache", { 6379: 6379 }, { clusterIP: "None" }),
  ),
  "policy.yaml": policy,
};

/** Has a connection until its input ends. */
const holder = `import socket, sys
s = socket.create_connection((sys.argv[1], 6379)); s.sendall(b"PING\\r\\n")
print("{}" if s.recv(7) == b"+PONG\\r\\n" else "null", flush=True)
sys.stdin.read()`;
/** One that has its connection; undefined: there is no place, as the one before may not quite have ended. */
async function hold(lab: TestLab, from: string, host: string): Promise<PodProgram | undefined> {
  const started = await lab.start(from, ["python3", "-c", holder, host]);
  const said = await started.next().catch(() => null);
  return said === null ? undefined : started;
}
const ping = async (lab: TestLab, from: string, host: string) => {
  const { stdout, stderr } = await lab.run(from, ["timeout", "60", "redis-cli", "-h", host, "ping"], 90_000);
  return { isIn: stdout === "PONG\n", said: stdout + stderr };
};
const refusals = async (lab: TestLab, node: string, host: string) =>
  (await lab.records(node)).filter(
    ({ reason, policy: by }) => reason === "connection_limit" && by === `shop/few-${host}`,
  );

test(
  "[TRF-6] a service's limit of TCP connections: refused beyond it with the reason, let in again, explained",
  labOptions,
  async (t) => {
    await withLab(manifests, {}, async (lab) => {
      await lab.ready("shop/cache");
      for (const host of hosts)
        for (const [from, node] of [
          ["shop/near", "node1"],
          ["shop/far", "node2"],
        ] as const)
          await t.test(`from ${node} to ${host}`, async () => {
            const by = `shop/few-${host}`;
            await waitFor("the policy", async () => {
              const told = await lab.askAgent(node, `/v1/explain?source=${from}&destination=shop/${host}:6379`);
              const limits = told.connectionLimits as {
                readonly maxConnections: number;
                readonly policy: string;
              } | null;
              return limits?.maxConnections === most && limits.policy === by;
            });
            const hasPlace = async () => (await ping(lab, from, host)).isIn;
            await waitFor("a place", hasPlace);
            // Each holds its connection.
            const holding: PodProgram[] = [];
            for (let i = 0; i < most; i++) holding.push(await waitFor("a place", () => hold(lab, from, host)));
            const refused = await ping(lab, from, host);
            assert.equal(refused.isIn, false);
            assert.match(refused.said, /reset by peer|closed the connection|Broken pipe/i);
            const record = (await waitFor("its record", async () => (await refusals(lab, node, host)).at(0))) as Record<
              string,
              unknown
            >;
            assert.deepEqual(
              [record.policy, record["src.workload"], record.lane, record.closed_by],
              [by, from, "none", "agent"],
            );
            if (host === "cache") assert.equal(record["dst.service"], "shop/cache");
            assert.ok((await lab.metric(node, "fairlead_connections_total", 'reason="connection_limit"')) >= 1);
            assert.ok(Number((await lab.askAgent(node, "/v1/counters")).connection_limit) >= 1);
            assert.ok((await lab.metric(node, "istio_tcp_connections_closed_total", 'response_flags="UO"')) >= 1);

            await holding.pop()?.end("");
            await waitFor("a place", hasPlace);
            for (const held of holding) await held.end("");
          });
    });
  },
);
