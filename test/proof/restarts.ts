// Proof: agents replaced under load with nothing lost and idle connections whole; killed agents lose only what was in flight; no plaintext between nodes.
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { plaintextBetweenNodes } from "./plaintext.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

/** Connections a second during the restarts, and idle ones held open over all of them. */
const RATE = 1000;
const IDLE = 500;

async function replaceAll(lab: TestLab, times: number, say: (line: string) => void): Promise<Record<string, unknown>> {
  const [nearPath, , farPath] = await paths(lab);
  if (nearPath === undefined || farPath === undefined) throw new Error("no paths");
  const idle = await lab.startTraffic("shop/client", [
    "idle",
    "--host",
    farPath.host,
    "--count",
    String(IDLE),
    "--seed",
    "7",
  ]);
  const opened = await idle.next();
  check(opened.open === IDLE, `idle connections: ${JSON.stringify(opened)}`);
  const loads = await Promise.all(
    [nearPath, farPath].map((p) =>
      lab.startTraffic("shop/client", ["load", "--host", p.host, "--rate", String(RATE / 2), "--orders", "request"]),
    ),
  );
  for (const l of loads) await l.next();
  const proved: unknown[] = [];
  for (let i = 0; i < times; i++) {
    const node = `node${1 + (i % 2)}`;
    say(`restart ${i + 1} of ${times}: ${node}`);
    await lab.agent(node, "replace");
    await sleep(1500);
    const state = await idle.ask("check", 60_000);
    proved.push(state);
    check(state.ok === IDLE, `idle connections after restart ${i + 1}: ${JSON.stringify(state)}`);
  }
  const reports = await Promise.all(loads.map((l) => l.ask("stop", 120_000)));
  for (const r of reports) check(r.failed === 0, `load during restarts: ${JSON.stringify(r)}`);
  await idle.end("quit");
  return { restarts: times, idle: proved.at(-1), loads: reports };
}

async function killed(lab: TestLab, say: (line: string) => void): Promise<Record<string, unknown>> {
  const farPath = (await paths(lab))[2];
  if (farPath === undefined) throw new Error("no path");
  const load = await lab.startTraffic("shop/client", [
    "load",
    "--host",
    farPath.host,
    "--rate",
    "300",
    "--orders",
    "request",
  ]);
  await load.next();
  await sleep(1000);
  say("SIGKILL of the agent of node1, then start");
  await lab.agent("node1", "kill");
  await sleep(1000);
  const began = performance.now();
  await lab.agent("node1", "start");
  const startMs = Math.round(performance.now() - began);
  const probe = await lab.traffic("shop/client", [
    "short",
    "--host",
    farPath.host,
    "--count",
    "200",
    "--concurrency",
    "4",
  ]);
  check(probe.failed === 0, `connections after the agent's return: ${JSON.stringify(probe)}`);
  const report = await load.ask("stop", 120_000);
  return { startMs, afterReturn: probe, during: report };
}

export const restarts: Proof = {
  name: "restarts",
  about: "20 agent replacements at 1,000 connections a second with 500 idle ones; SIGKILL; no plaintext between nodes",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    await withLab(shopManifests, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      const watch = await plaintextBetweenNodes(lab);
      try {
        facts.replace = await replaceAll(lab, Math.max(2, Math.round(20 * scale)), say);
        facts.killed = await killed(lab, say);
      } finally {
        facts.wire = await watch.stop();
      }
      const wire = facts.wire as { readonly plaintext: number; readonly marked: number };
      check(wire.plaintext === 0, `plaintext packets between nodes: ${JSON.stringify(wire)}`);
    });
    return facts;
  },
};
