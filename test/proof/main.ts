// `npm run prove -- [NAME...] [--scale F] [--minutes N] [--rate N] [--only PART,...] [--old COMMIT] [--json FILE]`: the long runs that the documents promise, one after the other. Needs root.
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { churnProof } from "./churn.ts";
import { controlPlane } from "./control-plane.ts";
import { controller } from "./controller.ts";
import { deletions } from "./deletions.ts";
import { isolation } from "./isolation.ts";
import { ports } from "./ports.ts";
import { programs } from "./programs.ts";
import { type Proof, Unproven } from "./proof.ts";
import { renewals } from "./renewals.ts";
import { requests } from "./requests.ts";
import { restarts } from "./restarts.ts";
import { soak } from "./soak.ts";
import { traffic } from "./traffic.ts";
import { versions } from "./versions.ts";
import { ztunnel } from "./ztunnel.ts";

const all: readonly Proof[] = [
  traffic,
  programs,
  ports,
  restarts,
  controller,
  deletions,
  renewals,
  requests,
  isolation,
  soak,
  versions,
  churnProof,
  controlPlane,
  ztunnel,
];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    scale: { type: "string", default: "1" },
    minutes: { type: "string" },
    rate: { type: "string" },
    only: { type: "string" },
    old: { type: "string" },
    json: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(
    "npm run prove -- [NAME...] [--scale 0.05] [--minutes N] [--rate N] [--only PART,...] [--old COMMIT] [--json FILE]\n",
  );
  for (const p of all) console.log(`  ${p.name.padEnd(12)} ${p.about}`);
  process.exit(0);
}
const unknown = positionals.filter((n) => !all.some((p) => p.name === n));
if (unknown.length > 0) {
  console.error(`no such proof: ${unknown.join(", ")}; there are: ${all.map((p) => p.name).join(", ")}`);
  process.exit(2);
}
/** A number above 0. */
function numberOf(name: "scale" | "minutes" | "rate"): number | undefined {
  const text = values[name];
  if (text === undefined) return undefined;
  if (Number(text) > 0 && Number.isFinite(Number(text))) return Number(text);
  console.error(`--${name}: a number above 0 is needed, not ${JSON.stringify(text)}`);
  process.exit(2);
}
const [scale = 1, minutes, rate] = [numberOf("scale"), numberOf("minutes"), numberOf("rate")];
const results: Record<string, unknown> = {};
let passed = 0;
let failed = 0;
const wanted = (proof: Proof): boolean => {
  if (positionals.length > 0) return positionals.includes(proof.name);
  const lack = proof.lacks?.();
  if (lack !== undefined) console.error(`${proof.name}: not run: ${lack}`);
  return lack === undefined;
};
for (const proof of all.filter(wanted)) {
  const began = performance.now();
  const say = (line: string): void => console.error(`${proof.name}: ${line}`);
  try {
    const facts = await proof.run({
      scale,
      say,
      ...(minutes === undefined ? {} : { minutes }),
      ...(rate === undefined ? {} : { rate }),
      ...(values.old === undefined ? {} : { old: values.old }),
      ...(values.only === undefined ? {} : { only: values.only.split(",") }),
    });
    results[proof.name] = { held: true, facts };
    passed++;
    say(`held (${((performance.now() - began) / 1000).toFixed(0)} s)`);
  } catch (e) {
    const reason = e instanceof Error ? e.message : String(e);
    results[proof.name] = { held: false, reason, ...(e instanceof Unproven ? { facts: e.facts } : {}) };
    failed++;
    say(`DOES NOT HOLD: ${reason}`);
  }
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
else console.log(JSON.stringify(results, null, 2));
console.error(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
