// npm run fuzz -- [TARGET...] [--minutes 10] [--seed N] [--jobs 2]: every fuzz target, so many at a time, with progress. New inputs of the Rust
// targets are gathered in a temporary folder and the kept corpus is minimised at the end; a crash is written to a file and named.
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { targets as scripted } from "./targets.ts";

const native = join(import.meta.dirname, "../../native/fuzz");
const corpora = join(native, "corpus");
/** A corpus is kept in the repository up to this size; the smallest inputs go first. */
const mostBytes = 48 * 1024;
const mostFiles = 120;

/** The compiler's own coverage pass, as a stable toolchain has it; build scripts stay without it because of `--target`. */
const coverage = [
  "--cfg fuzzing -Cpasses=sancov-module",
  "-Cllvm-args=-sanitizer-coverage-level=4",
  "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
  "-Cllvm-args=-sanitizer-coverage-pc-table",
  "-Cllvm-args=-sanitizer-coverage-trace-compares",
].join(" ");

interface Job {
  readonly name: string;
  readonly start: (seconds: number) => readonly [string, readonly string[], NodeJS.ProcessEnv];
  readonly keep: () => void;
}

function build(): string {
  const host = /host: (\S+)/.exec(execFileSync("rustc", ["-vV"], { encoding: "utf8", cwd: native }))?.[1];
  if (host === undefined) throw new Error("rustc -vV names no host");
  execFileSync("cargo", ["build", "--release", "--locked", "--target", host], {
    cwd: native,
    stdio: "inherit",
    env: { ...process.env, RUSTFLAGS: coverage },
  });
  return join(native, "target", host, "release", "fuzz");
}

function compiled(name: string, binary: string, work: string, seed: string): Job {
  const kept = join(corpora, name);
  const grown = join(work, name);
  const env = { ...process.env, FAIRLEAD_FUZZ_TARGET: name };
  mkdirSync(grown, { recursive: true });
  return {
    name,
    start: (seconds) => [
      binary,
      [
        `-max_total_time=${seconds}`,
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        `-seed=${seed}`,
        `-artifact_prefix=${join(native, `crash-${name}-`)}`,
        grown,
        kept,
      ],
      env,
    ],
    keep: () => {
      const least = join(work, `${name}-least`);
      mkdirSync(least);
      execFileSync(binary, ["-merge=1", "-timeout=10", least, kept, grown], { env, stdio: "ignore", timeout: 600_000 });
      const files = readdirSync(least)
        .map((f) => ({ path: join(least, f), name: f, size: statSync(join(least, f)).size }))
        .sort((a, b) => a.size - b.size);
      let room = mostBytes - readdirSync(kept).reduce((n, f) => n + statSync(join(kept, f)).size, 0);
      let places = mostFiles - readdirSync(kept).length;
      for (const file of files) {
        if (file.size > room || places <= 0) break;
        cpSync(file.path, join(kept, file.name));
        room -= file.size;
        places -= 1;
      }
    },
  };
}

/** True: the target ran its time without a finding. */
function run(job: Job, seconds: number): Promise<boolean> {
  return new Promise((resolve) => {
    const [program, args, env] = job.start(seconds);
    const child = spawn("nice", ["-n", "19", program, ...args], { stdio: ["ignore", "pipe", "pipe"], env });
    const watchdog = setTimeout(() => child.kill("SIGKILL"), (seconds + 120) * 1_000);
    let tail = "";
    let status = "";
    const take = (chunk: Buffer): void => {
      tail = (tail + chunk.toString()).slice(-6_000);
      const lines = tail.split("\n");
      status = lines.findLast((l) => /^#\d+|runs,/.test(l)) ?? status;
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const progress = setInterval(() => console.log(`${job.name}: ${status.trim()}`), 30_000);
    child.on("error", (e) => take(Buffer.from(e.message)));
    child.on("close", (code) => {
      clearTimeout(watchdog);
      clearInterval(progress);
      console.log(`${job.name}: ${code === 0 ? "no finding" : `FAILED\n${tail}`}\n${job.name}: ${status.trim()}`);
      resolve(code === 0);
    });
  });
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
    jobs: { type: "string", default: "2" },
    help: { type: "boolean", default: false },
  },
});
const targets = [...readdirSync(corpora), ...scripted.map((t) => `ts-${t.name}`)].sort();
const usage = `npm run fuzz -- [TARGET...] [--minutes 10, each] [--jobs 2, at once] [--seed 1]\ntargets: ${targets.join(", ")}`;
if (values.help) {
  console.log(usage);
  process.exit(0);
}
function refuse(problem: string): never {
  console.error(`${problem}\n${usage}`);
  process.exit(2);
}
const seconds = Math.round(Number(values.minutes) * 60);
if (!(seconds > 0)) refuse(`--minutes ${values.minutes}: use a number above 0`);
const atOnce = Number(values.jobs);
if (!Number.isInteger(atOnce) || atOnce < 1) refuse(`--jobs ${values.jobs}: use a whole number above 0`);
const wanted = (name: string): boolean => positionals.length === 0 || positionals.includes(name);
const inRust = readdirSync(corpora).sort().filter(wanted);
const inScript = scripted.map((t) => t.name).filter((name) => wanted(`ts-${name}`));
const unknown = positionals.filter((p) => !inRust.includes(p) && !inScript.includes(p.replace(/^ts-/, "")));
if (unknown.length > 0) refuse(`no target ${unknown.join(", ")}`);
const work = mkdtempSync(join(tmpdir(), "fairlead-fuzz-"));
let passed = 0;
let failed = 0;
try {
  const binary = inRust.length > 0 ? build() : "";
  const mutate = join(import.meta.dirname, "mutate.ts");
  const jobs: Job[] = [
    ...inRust.map((name) => compiled(name, binary, work, values.seed)),
    ...inScript.map(
      (name): Job => ({
        name: `ts-${name}`,
        start: (s) => [
          process.execPath,
          ["--disable-warning=ExperimentalWarning", mutate, name, String(s), values.seed],
          process.env,
        ],
        keep: () => {},
      }),
    ),
  ];
  const lane = async (): Promise<void> => {
    for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
      console.log(`== ${job.name}: ${seconds} s`);
      if (await run(job, seconds)) {
        passed += 1;
        job.keep();
      } else failed += 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
} finally {
  if (existsSync(work)) rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
