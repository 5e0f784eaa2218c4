// What `explain` says against what really happens, over generated policies: every pair of pods, both lanes, in and out of the mesh.
import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { explainPair } from "../../cli/explain.ts";
import { labView } from "../../cli/mesh.ts";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  manifest,
  namespace,
  peerAuthentication,
  serverPod,
  service,
} from "../kit/manifests.ts";
import { random } from "../kit/random.ts";
import { waitFor } from "../kit/wait.ts";

const sources = ["shop/near", "shop/far", "other/one", "outside/stranger"];
const targets = ["shop/web", "shop/db", "other/api"];
const ports = [7001, 7002];
const rounds = Number(process.env.FAIRLEAD_TEST_ROUNDS ?? 9);
const seed = Number(process.env.FAIRLEAD_TEST_SEED ?? 20_261_121);

const pods = manifest(
  namespace("shop"),
  namespace("other"),
  namespace("outside", false),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  clientPod("other/one", { node: "node1" }),
  clientPod("outside/stranger", { node: "node2" }),
  serverPod("shop/web", { node: "node1" }),
  serverPod("shop/db", { node: "node2" }),
  serverPod("other/api", { node: "node2" }),
  ...targets.map((t) => service(t, t.split("/")[1] ?? "", { 7001: 7001, 7002: 7002 })),
);

/** A policy over what L4 knows: identities, namespaces, address blocks, ports; sometimes on one workload only. */
function policy(name: string, next: () => number): unknown {
  const pick = <T>(...items: readonly T[]): T => items[Math.floor(next() * items.length)] as T;
  const from = pick<Record<string, readonly string[]>>(
    { principals: [`cluster.local/ns/shop/sa/${pick("near", "far")}`] },
    { principals: ["cluster.local/ns/other/sa/*"] },
    { notPrincipals: ["cluster.local/ns/shop/sa/far"] },
    { namespaces: [pick("shop", "other")] },
    { ipBlocks: [pick("10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/16")] },
    { notNamespaces: ["other"] },
  );
  const rule = {
    from: [{ source: from }],
    ...(next() < 0.5 ? { to: [{ operation: { ports: [String(pick(...ports))] } }] } : {}),
  };
  const [where = "", app = ""] = pick(...targets).split("/");
  return authorization(`${where}/${name}`, {
    action: pick("ALLOW", "DENY"),
    ...(next() < 0.6 ? { selector: { matchLabels: { app } } } : {}),
    rules: [
      rule,
      ...(next() < 0.3
        ? [{ from: [{ source: { principals: [`cluster.local/ns/shop/sa/${pick("near", "far")}`] } }] }]
        : []),
    ],
  });
}

const probe = (jobs: readonly string[]): string[] => [
  "python3",
  "-c",
  `import socket,json
from concurrent.futures import ThreadPoolExecutor
def reached(job):
  host,port=job.split(); host=socket.gethostbyname(host)
  try:
    s=socket.create_connection((host,int(port)),30); s.settimeout(30)
    if port=="7002": s.sendall(b"x")
    ok=len(s.recv(1))==1; s.close(); return ok
  except OSError: return False
out=list(ThreadPoolExecutor(6).map(reached, ${JSON.stringify(jobs)}))
print(json.dumps(out))`,
];

async function inForce(lab: TestLab, name: string): Promise<void> {
  await waitFor(`policies ${name} in force`, async () => {
    const { objects } = (await lab.askController("/v1/status")) as {
      objects: { kind: string; name: string; enforced: { nodes: number; of: number } | null }[];
    };
    const mine = objects.filter(
      (o) => o.name === name && ["AuthorizationPolicy", "PeerAuthentication"].includes(o.kind),
    );
    return mine.length > 0 && mine.every((o) => o.enforced !== null && o.enforced.nodes === o.enforced.of);
  });
}

/** What the agents recorded about a pair lately, for the message. */
async function recent(lab: TestLab, source: string, target: string): Promise<string> {
  const nodes = await Promise.all(["node1", "node2"].map((n) => lab.records(n, 60)));
  return nodes
    .flat()
    .filter((r) => r["src.workload"] === source && r["dst.workload"] === target)
    .slice(0, 8)
    .map((r) => JSON.stringify(r))
    .join("\n");
}

test(
  "[DP-33] [SEC-10] explain agrees with what happens, over generated policies and every pair of pods",
  labOptions,
  async () => {
    const next = random(seed);
    await withLab({ "pods.yaml": pods }, {}, async (lab) => {
      const wrong: string[] = [];
      const seen = { allow: 0, refuse: 0 };
      for (let round = 0; round < rounds; round++) {
        // Each round has names of its own, so that nothing of the round before can pass for it.
        const name = `round${round}`;
        const set = Array.from({ length: 1 + Math.floor(next() * 3) }, (_, i) =>
          policy(i === 0 ? name : `${name}-${i}`, next),
        );
        const mode = next() < 0.5 ? "STRICT" : "PERMISSIVE";
        const text = manifest(...set, peerAuthentication(`shop/${name}`, mode));
        lab.write("policies.yaml", text);
        await inForce(lab, name);
        const status = await lab.status();
        const jobs = targets.flatMap((t) => ports.map((port) => ({ target: t, port })));
        /** What explain says of the pairs of one source, and where something else happens. */
        const compare = async (source: string): Promise<readonly string[]> => {
          const done = await lab.run(
            source,
            probe(jobs.map((j) => `${j.target.split("/").reverse().join(".")} ${j.port}`)),
          );
          const real = JSON.parse(done.stdout) as boolean[];
          const other: string[] = [];
          for (const [i, job] of jobs.entries()) {
            const told = await explainPair(labView(status), source, `${job.target}:${job.port}`);
            seen[told.verdict as "allow" | "refuse"]++;
            const happened = real[i] === true ? "allow" : "refuse";
            if (told.verdict !== happened)
              other.push(
                `seed ${seed} round ${round}: ${source} -> ${job.target}:${job.port}: explain says ${told.verdict} (${told.reason} ${told.policy}), it was ${happened}\n${await recent(lab, source, job.target)}\n${text}`,
              );
          }
          return other;
        };
        const compared = async (source: string): Promise<void> => {
          // An agent has said that it took the policies; that its answers and the kernel's rows follow takes a moment.
          let other = await compare(source);
          for (let tries = 0; other.length > 0 && tries < 5; tries++) {
            await sleep(1000);
            other = await compare(source);
          }
          wrong.push(...other);
        };
        await Promise.all(sources.map(compared));
      }
      assert.deepEqual(wrong, []);
      assert.ok(seen.allow > 20 && seen.refuse > 20, `both outcomes are met: ${JSON.stringify(seen)}`);
    });
  },
);
