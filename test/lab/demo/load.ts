// Demo step: a node's agent is replaced and all certificates are renewed while connections keep coming and others stay open; nothing may be lost.
import { setTimeout as sleep } from "node:timers/promises";
import { labAsk } from "../client.ts";
import { fieldsAt } from "../objects.ts";
import { PodProgram, trafficCommand } from "../programs.ts";
import { type DemoContext, fromAgents, numberOf, type Proof, textOf } from "./context.ts";

const RATE = 200;
const IDLE = 50;

/** End of validity by node and identity. */
async function expiries(at: DemoContext): Promise<Map<string, number>> {
  const svids = await fromAgents(at, "/v1/certs", "svids");
  return new Map(svids.map((s) => [`${textOf(s.node)} ${textOf(s.identity)}`, numberOf(s.notAfterMs)]));
}

export async function underLoad(at: DemoContext): Promise<readonly Proof[]> {
  const client = (args: readonly string[]): Promise<PodProgram> =>
    PodProgram.start(at.lab, "shop/frontend", trafficCommand("client", [...args, "--host", "echo", "--port", "7000"]));
  const idle = await client(["idle", "--count", String(IDLE)]);
  const opened = await idle.next(20_000);
  const load = await client(["load", "--rate", String(RATE)]);
  await load.next();
  const before = await expiries(at);
  await sleep(1000);
  const restarts: Record<string, unknown>[] = [];
  for (const node of at.nodes) {
    at.say(`replacing the agent of ${node} under ${RATE} connections a second`);
    const answer = await labAsk(at.lab, "/v1/agent", { node, action: "replace" });
    restarts.push(answer.ok ? fieldsAt(answer.value) : { node, error: answer.error });
    await sleep(1000);
  }
  const proved = await idle.ask("check", 30_000);
  const renewed = await awaitRenewal(at, before);
  const report = await load.ask("stop", 60_000);
  const again = await idle.ask("check", 30_000);
  await Promise.all([idle.end("quit"), load.end("")]);
  const failed = numberOf(report.failed);
  const kept = Math.min(numberOf(proved.ok), numberOf(again.ok));
  const errors = restarts.filter((r) => r.error !== undefined);
  const server = fieldsAt(report.server);
  const whole =
    failed === 0 &&
    kept === IDLE &&
    numberOf(opened.open) === IDLE &&
    errors.length === 0 &&
    numberOf(server.broken) === 0;
  return [
    {
      name: "agents replaced under load",
      ok: whole,
      text: `${numberOf(report.ok)} connections at ${RATE}/s, ${failed} failed; ${kept} of ${IDLE} idle connections proved themselves afterwards; longest pause ${numberOf(report.longestGapMs)} ms${errors.length > 0 ? `; ${JSON.stringify(errors)}` : ""}${failed > 0 ? `; ${JSON.stringify(report.reasons)}` : ""}`,
      facts: { load: report, idle: { opened, proved, again }, restarts },
    },
    {
      name: "certificates renewed under load",
      ok: renewed.ok && failed === 0,
      text: `${renewed.renewed} of ${renewed.total} workload certificates renewed while the load ran, ${failed} connections failed`,
      facts: { ...renewed },
    },
  ];
}

/** Waits until every identity that was there has a certificate that ends later. */
async function awaitRenewal(
  at: DemoContext,
  before: ReadonlyMap<string, number>,
): Promise<{ readonly ok: boolean; readonly renewed: number; readonly total: number }> {
  at.say("waiting for every certificate to be renewed under load");
  const total = before.size;
  let renewed = 0;
  for (let waited = 0; waited < 15_000; waited += 250) {
    const now = await expiries(at);
    renewed = [...before].filter(([key, end]) => (now.get(key) ?? 0) > end).length;
    if (renewed === total && total > 0) break;
    await sleep(250);
  }
  return { ok: renewed === total && total > 0, renewed, total };
}
