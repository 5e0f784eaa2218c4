// Proof: agents replaced under load with nothing lost and idle connections whole; killed agents lose only what was in flight; no plaintext between nodes.
import { randomBytes } from "node:crypto";
import { readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { holdIdle, startLoad } from "./load.ts";
import { plaintextBetweenNodes } from "./plaintext.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

/** Connections a second during the restarts, and idle ones held open over all of them. */
const RATE = 1000;
const IDLE = 500;
/** An agent lets open connections end for this long (default of FAIRLEAD_DRAIN_MS); the last look at the idle ones comes before. */
const DRAIN_MS = 300_000;
const LAST_LOOK_MS = 10_000;

/**
 * Makes the running agent's maps and programs look like those of another version: the pins' names are all that tells versions
 * apart, so its successor loads maps of its own and takes the pods over one by one (rule DP-18).
 */
export function asOtherVersion(lab: TestLab, node: string): void {
  const pins = lab.node(node).pinDir;
  const active = readdirSync(pins).find((name) => name.startsWith("active-"));
  if (active === undefined) throw new Error(`no active version in ${pins}`);
  const version = active.slice("active-".length);
  const other = randomBytes(6).toString("hex");
  for (const pod of readdirSync(join(pins, "pods")))
    renameSync(join(pins, "pods", pod), join(pins, "pods", pod.replace(version, other)));
  renameSync(join(pins, version), join(pins, other));
  renameSync(join(pins, active), join(pins, `active-${other}`));
}

async function replaceAll(
  lab: TestLab,
  times: number,
  whole: boolean,
  say: (line: string) => void,
): Promise<Record<string, unknown>> {
  const all = await paths(lab);
  const farPath = all[2];
  if (farPath === undefined) throw new Error("no paths");
  // A client's ports rest for a minute after each connection to one place: the usual 28,232 do not last for 500/s, with or without a mesh.
  await lab.run("shop/client", ["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
  const idle = await holdIdle(lab, { host: farPath.host, count: IDLE, seed: 7 });
  const loads = await Promise.all(all.map((p) => startLoad(lab, { host: p.host, rate: RATE / all.length })));
  const proved: unknown[] = [];
  const began = performance.now();
  for (let i = 0; i < times; i++) {
    const node = `node${1 + (i % 2)}`;
    const changed = i % 4 > 1;
    if (changed) asOtherVersion(lab, node);
    say(`restart ${i + 1} of ${times}: ${node}${changed ? ", by a version with other maps" : ""}`);
    await lab.agent(node, "replace");
    await sleep(1500);
    proved.push(await idle.prove(`after restart ${i + 1}`));
  }
  const reports = await Promise.all(loads.map((l, i) => l.stop(`load during restarts, ${all[i]?.name}`)));
  if (whole) {
    say("waiting for the end of the first agents' drain");
    await sleep(DRAIN_MS - LAST_LOOK_MS - (performance.now() - began));
    proved.push(await idle.prove("before the drain's end"));
  }
  await idle.end();
  return { restarts: times, idleLooks: proved.length, idle: proved.at(-1), loads: reports };
}

/** SIGKILL: what went through the agent dies, what did not lives; without an agent strict pods refuse, and go on when it is back. */
async function killed(lab: TestLab, node: string, say: (line: string) => void): Promise<Record<string, unknown>> {
  const [near, , far] = await paths(lab);
  if (near === undefined || far === undefined) throw new Error("no paths");
  const hold = (host: string) => holdIdle(lab, { host, count: 100 });
  const [direct, tunnelled] = await Promise.all([hold(near.host), hold(far.host)]);
  const load = await startLoad(lab, { host: far.host, rate: 300 });
  await sleep(1000);
  say(`SIGKILL of the agent of ${node}, then start`);
  const began = performance.now();
  await lab.agent(node, "kill");
  await sleep(1000);
  await lab.agent(node, "start");
  const downMs = performance.now() - began;
  const probe = await lab.traffic("shop/client", ["short", "--host", far.host, "--count", "200", "--concurrency", "4"]);
  check(probe.failed === 0, `connections after the agent's return: ${JSON.stringify(probe)}`);
  const report = await load.stop("load during the agent's absence", true);
  check(
    Number(report.longestGapMs) <= downMs + 100,
    `down for ${downMs} ms, connections again later: ${JSON.stringify(report)}`,
  );
  const [lived, died] = await Promise.all([direct.prove("that no agent carries"), tunnelled.look()]);
  check(died.ok === 0, `connections through the killed agent: ${JSON.stringify(died)}`);
  await Promise.all([direct.end(), tunnelled.end()]);
  return { downMs: Math.round(downMs), afterReturn: probe, during: report, direct: lived, tunnelled: died };
}

export const restarts: Proof = {
  name: "restarts",
  about:
    "20 agent replacements (every second pair by a version with other maps) at 1,000 connections a second with 500 idle ones; SIGKILL; no plaintext between nodes",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    await withLab(shopManifests, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      const watch = await plaintextBetweenNodes(lab);
      try {
        facts.replace = await replaceAll(lab, Math.max(4, Math.round(20 * scale)), scale >= 1, say);
        for (const node of ["node1", "node2"]) facts[`killed ${node}`] = await killed(lab, node, say);
      } finally {
        facts.wire = await watch.stop();
      }
      const wire = facts.wire as { readonly plaintext: number; readonly marked: number };
      check(wire.plaintext === 0, `plaintext packets between nodes: ${JSON.stringify(wire)}`);
    });
    return facts;
  },
};
