// `npm run conformance -- [SUITE...] [--without SUITE] [--json FILE]`: suites that others wrote, through the mesh in a lab. Needs root. A suite that
// cannot run counts as failed.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { openLabs } from "../kit/lab.ts";
import { labDown, missingForLab } from "../lab/client.ts";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import { CACHE } from "./foreign.ts";
import { type Ran, report } from "./report.ts";
import { type Suite, textOf } from "./suite.ts";
import { clients } from "./suites/clients.ts";
import { grpcInterop } from "./suites/grpc.ts";
import { h2spec } from "./suites/h2spec.ts";
import { smuggling } from "./suites/smuggling.ts";
import { websocket } from "./suites/websocket.ts";

const all: readonly Suite[] = [h2spec, smuggling, websocket, grpcInterop, clients];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    without: { type: "string", multiple: true, default: [] },
    json: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log("npm run conformance -- [SUITE...] [--without SUITE] [--json FILE]\n");
  for (const s of all) console.log(`  ${s.name.padEnd(12)} ${s.about}`);
  console.log(
    "  gateway      the Gateway API's suite, on a cluster; named alone, and with options of its own (gateway --help)",
  );
  console.log("\ndocs/conformance/http.md is written from the last result of every suite, once all have one.");
  process.exit(0);
}
const unknown = [...positionals, ...values.without].filter((n) => !all.some((s) => s.name === n));
if (unknown.length > 0) {
  console.error(`no such suite: ${unknown.join(", ")}; there are: ${all.map((s) => s.name).join(", ")}`);
  process.exit(2);
}
const missing = missingForLab();
if (missing !== undefined) {
  console.error(`no lab here: ${missing}`);
  process.exit(2);
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.once(signal, async () => {
    for (const name of openLabs) await labDown(name);
    process.exit(1);
  });

/** Each suite's last result, so that one that was run alone takes its place on the page beside the others'. */
const resultFile = (suite: string): string => join(CACHE, "results", `${suite}.json`);

async function runSuite(suite: Suite, circumstances: string): Promise<Ran> {
  const say = (line: string): void => console.error(`${suite.name}: ${line}`);
  const began = performance.now();
  const result = await suite
    .run(say)
    .catch((e: unknown) => ({ programs: [], cases: [], broken: textOf(e) }) satisfies Partial<Ran>);
  const seconds = Math.round((performance.now() - began) / 1000);
  const ran: Ran = { name: suite.name, about: suite.about, seconds, circumstances, ...result };
  for (const c of ran.cases) if (c.outcome === "failed") say(`FAILED ${c.group}: ${c.name}: ${c.reason}`);
  if (ran.broken !== undefined) say(`CANNOT RUN: ${ran.broken}`);
  const of = (outcome: string): number => ran.cases.filter((c) => c.outcome === outcome).length;
  say(`${of("passed")} passed, ${of("failed")} failed, ${of("skipped")} skipped (${seconds} s)`);
  mkdirSync(join(CACHE, "results"), { recursive: true });
  writeFileSync(resultFile(suite.name), JSON.stringify(ran));
  return ran;
}

const commit = (await finish(["git", "-C", PROJECT_DIR, "rev-parse", "--short", "HEAD"])).stdout.trim();
const circumstances = `commit ${commit}, ${(await finish(["uname", "-sr"])).stdout.trim()}`;
const wanted = all.filter(
  (s) => (positionals.length === 0 || positionals.includes(s.name)) && !values.without.includes(s.name),
);
const ran: Ran[] = [];
for (const suite of wanted) ran.push(await runSuite(suite, circumstances));

if (all.every((s) => existsSync(resultFile(s.name)))) {
  const latest = all.map((s) => JSON.parse(readFileSync(resultFile(s.name), "utf8")) as Ran);
  const page = join(PROJECT_DIR, "docs/conformance/http.md");
  mkdirSync(dirname(page), { recursive: true });
  writeFileSync(page, report(latest));
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ commit, suites: ran }, null, 2)}\n`);
const count = (outcome: string): number => ran.flatMap((r) => r.cases).filter((c) => c.outcome === outcome).length;
const broken = ran.filter((r) => r.broken !== undefined).length;
console.log(`${count("passed")} passed, ${count("failed") + broken} failed, ${count("skipped")} skipped`);
process.exitCode = count("failed") + broken === 0 ? 0 : 1;
