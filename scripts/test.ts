// Runs every check of the project in order, streams their output, and ends with the count. Groups can be chosen: --only static,unit
import { spawn } from "node:child_process";
import { existsSync, globSync, readdirSync, rmSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Step {
  readonly group: "static" | "unit" | "rust" | "kernel" | "lab" | "api";
  readonly name: string;
  readonly command: readonly [string, ...string[]];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** How results are counted: a plain command is one check. */
  readonly counts: "exit" | "node" | "cargo";
  readonly timeoutMinutes: number;
}

interface Outcome {
  readonly passed: number;
  readonly failed: number;
}

const node = process.execPath;
const nodeTest = (group: Step["group"], name: string, patterns: readonly string[], concurrency: number): Step => ({
  group,
  name,
  command: [
    node,
    "--test",
    "--test-reporter=spec",
    "--test-timeout=600000",
    `--test-concurrency=${concurrency}`,
    ...globSync(patterns as string[]).sort(),
  ],
  counts: "node",
  timeoutMinutes: 30,
});

const steps: readonly Step[] = [
  {
    group: "static",
    name: "types",
    command: [node, "node_modules/typescript-checker/bin/tsc", "-p", "."],
    counts: "exit",
    timeoutMinutes: 3,
  },
  {
    group: "static",
    name: "lint and format",
    command: [node, "node_modules/@biomejs/biome/bin/biome", "check", "."],
    counts: "exit",
    timeoutMinutes: 3,
  },
  {
    group: "static",
    name: "rooms (import rule)",
    command: [
      node,
      "node_modules/dependency-cruiser/bin/dependency-cruise.mjs",
      "--config",
      "test/lint/rooms.cjs",
      "agent",
      "controller",
      "cli",
      "test/lab",
      "test/cluster",
    ],
    counts: "exit",
    timeoutMinutes: 3,
  },
  {
    group: "static",
    name: "Rust format",
    command: ["cargo", "fmt", "--all", "--check"],
    cwd: "native",
    counts: "exit",
    timeoutMinutes: 3,
  },
  nodeTest("static", "structure and generated files", ["test/lint/*.test.ts", "test/*.test.ts"], 1),
  nodeTest(
    "unit",
    "unit and property tests",
    [
      "{agent,controller,cli,scripts}/**/*.test.ts",
      "test/{kit,lab,bench,proof,unit,controller,fuzz,http,reference}/**/*.test.ts",
      "test/cluster/{images,kubernetes,machine}/*.test.ts",
      "test/conformance/gateway/result/*.test.ts",
    ],
    // Half their time they wait: for deadlines, for programs that they start.
    2 * availableParallelism(),
  ),
  {
    group: "rust",
    name: "clippy",
    command: ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    cwd: "native",
    counts: "exit",
    timeoutMinutes: 15,
  },
  {
    group: "rust",
    name: "Rust tests",
    command: ["cargo", "test", "--locked", "--workspace", "--quiet", "--no-fail-fast", "--tests"],
    cwd: "native",
    env: { RUST_TEST_THREADS: `${2 * availableParallelism()}` },
    counts: "cargo",
    timeoutMinutes: 20,
  },
  nodeTest("kernel", "kernel tests", ["test/bpf/*.test.ts"], 1),
  nodeTest("lab", "lab tests (real programs between nodes)", ["test/netns/*.test.ts"], 3),
  {
    group: "api",
    name: "API server and Helm (built from Go modules; minutes the first time)",
    command: [node, "--disable-warning=ExperimentalWarning", "test/cluster/main.ts", "build", "--api-only", "--helm"],
    counts: "exit",
    timeoutMinutes: 30,
  },
  nodeTest("api", "API-server tests", ["test/apiserver/*.test.ts", "test/conformance/gateway/*.test.ts"], 2),
];

/**
 * Where Node keeps compiled TypeScript between processes: every test file is a process of its own, and half of a short one's time
 * was compiling. Controllers that tests start use it too; agents have one of their own.
 */
const compileCache = join(import.meta.dirname, "../build/compile-cache");

/** What was compiled of files that have changed since is never read again: past 256 MB all is thrown away. */
function boundCompileCache(): void {
  if (!existsSync(compileCache)) return;
  const files = readdirSync(compileCache, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const bytes = files.reduce((sum, file) => sum + statSync(join(file.parentPath, file.name)).size, 0);
  if (bytes > 256 * 2 ** 20) rmSync(compileCache, { recursive: true, force: true });
}

function count(step: Step, output: string, code: number | null): Outcome {
  let passed = 0;
  let failed = 0;
  if (step.counts === "node") {
    for (const m of output.matchAll(/^ℹ pass (\d+)$/gm)) passed += Number(m[1]);
    for (const m of output.matchAll(/^ℹ (?:fail|cancelled) (\d+)$/gm)) failed += Number(m[1]);
    // A skipped test is not a passed one: everything the suite names must have run.
    for (const m of output.matchAll(/^ℹ skipped (\d+)$/gm)) failed += Number(m[1]);
    if (passed + failed === 0) failed = 1;
  } else if (step.counts === "cargo") {
    for (const m of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed/gm)) {
      passed += Number(m[1]);
      failed += Number(m[2]);
    }
    if (passed + failed === 0) failed = 1;
  } else {
    passed = code === 0 ? 1 : 0;
  }
  if (code !== 0 && failed === 0) failed = 1;
  return { passed, failed };
}

function run(step: Step): Promise<Outcome> {
  return new Promise((resolve) => {
    const [program, ...args] = step.command;
    const env = { ...process.env, NODE_COMPILE_CACHE: compileCache, ...step.env };
    const child = spawn(program, args, {
      cwd: step.cwd ?? ".",
      env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    const timer = setTimeout(() => {
      console.log(`${step.name}: not done after ${step.timeoutMinutes} minutes, ended`);
      try {
        process.kill(-(child.pid ?? 0), "SIGKILL");
      } catch {
        // already gone
      }
    }, step.timeoutMinutes * 60_000);
    let output = "";
    const take = (chunk: Buffer): void => {
      output += chunk.toString();
      process.stdout.write(chunk);
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", (e) => {
      output += String(e);
      console.log(`${step.name}: ${e.message}`);
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve(count(step, output, code));
    });
  });
}

const groups = [...new Set(steps.map((step) => step.group))];
const usage = `npm test -- [--only GROUP[,GROUP]]   groups, in order: ${groups.join(", ")}`;
const { values } = parseArgs({ options: { only: { type: "string" }, help: { type: "boolean", default: false } } });
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const only = values.only?.split(",");
const unknown = only?.filter((name) => !(groups as readonly string[]).includes(name)) ?? [];
if (unknown.length > 0) {
  console.error(`no group ${unknown.join(", ")}\n${usage}`);
  process.exit(2);
}
boundCompileCache();
const began = Date.now();
let passed = 0;
let failed = 0;
const failures: string[] = [];
for (const step of steps) {
  if (only !== undefined && !only.includes(step.group)) continue;
  if (step.cwd !== undefined && !existsSync(step.cwd)) continue;
  const stepBegan = Date.now();
  console.log(`\n== ${step.name}`);
  const outcome = await run(step);
  passed += outcome.passed;
  failed += outcome.failed;
  if (outcome.failed > 0) failures.push(`${step.name}: ${outcome.failed} failed`);
  console.log(
    `== ${step.name}: ${outcome.passed} passed, ${outcome.failed} failed in ${((Date.now() - stepBegan) / 1000).toFixed(1)} s`,
  );
}
console.log(`\ntotal time ${((Date.now() - began) / 1000).toFixed(0)} s`);
for (const line of failures) console.log(line);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
