// Proof: TIME_WAIT caps nothing in a minute at a rate far above the ports of one range (DP-2), and one pod holds as many connections at
// once as the agents may have descriptors (DP-3), all of them whole.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { holdIdle, startLoad } from "./load.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

/** As many as a client's own ports bear with its own TIME_WAIT (64,511 a minute), and what a server that ends first leaves possible. */
const RATES = { "client-fin": 900, "server-fin": 1_500 } as const;
const WANTED = 40_000;
/** Of an agent that carries a connection through a tunnel: the pod's socket and the tunnel's. */
const DESCRIPTORS_EACH = 2;
const SPARE = 1_000;

/** Soft limit of open files of a process. */
function filesOf(pid: number): number {
  const line = /^Max open files +(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, "utf8"));
  return Number(line?.[1] ?? 0);
}

async function timeWait(lab: TestLab, seconds: number, say: (line: string) => void): Promise<Record<string, unknown>> {
  const facts: Record<string, unknown> = {};
  for (const path of (await paths(lab)).filter((p) => p.name.startsWith("across")))
    for (const [orders, rate] of Object.entries(RATES)) {
      const what = `${path.name}, ${orders} first`;
      say(`${what}: ${rate}/s for ${seconds} s`);
      const load = await startLoad(lab, { host: path.host, rate, orders });
      await sleep(seconds * 1000);
      facts[what] = await load.stop(what);
    }
  return facts;
}

async function many(lab: TestLab, scale: number, say: (line: string) => void): Promise<Record<string, unknown>> {
  const status = await lab.status();
  const limits = status.nodes.map((n) => filesOf(n.agent?.pid ?? 0));
  const possible = Math.floor((Math.min(...limits) - SPARE) / DESCRIPTORS_EACH);
  const count = Math.max(100, Math.floor(Math.min(WANTED, possible) * scale));
  const across = (await paths(lab)).filter((p) => p.name.startsWith("across"));
  const share = Math.floor(count / across.length);
  say(`${share * across.length} connections at once (wanted ${WANTED}; agents may open ${Math.min(...limits)} files)`);
  const held = [];
  for (const [i, path] of across.entries()) held.push(await holdIdle(lab, { host: path.host, count: share, seed: i }));
  const host = across[0]?.host ?? "";
  const beside = await lab.traffic("shop/client", ["short", "--host", host, "--count", "200", "--concurrency", "8"]);
  check(beside.failed === 0, `new connections beside them: ${JSON.stringify(beside)}`);
  for (const idle of held) await idle.prove("with all of them open");
  for (const idle of held) await idle.end();
  return { held: share * across.length, wanted: WANTED, fileLimits: limits, beside };
}

export const ports: Proof = {
  name: "ports",
  about:
    "a minute far above one range of ports, either side ending first; as many connections at once as descriptors allow",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    await withLab(shopManifests, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      // A client's ports rest for a minute after each connection to one place, with or without a mesh: it gets all there are.
      await lab.run("shop/client", ["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
      facts.many = await many(lab, scale, say);
      facts.timeWait = await timeWait(lab, Math.max(5, Math.round(60 * scale)), say);
    });
    return facts;
  },
};
