// Builds the programs of a module and keeps them under what they were made of: the same pins, sources, flags and compiler are built once on
// a machine, for all checkouts. What was compiled before an interruption is not compiled again (Go's own cache).
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { exitCode, finish } from "../../lab/command.ts";
import { withLock } from "../machine/lock.ts";
import { type Module, moduleVersion } from "./modules.ts";

export interface Built {
  readonly name: string;
  readonly version: string;
  /** Holds the programs. */
  readonly folder: string;
  /** 0 if they were there. */
  readonly seconds: number;
}

export interface Toolchain {
  /** As `go env GOVERSION` says, e.g. "go1.26.8". */
  readonly version: string;
  readonly arch: string;
}

/** Low enough that a build in the background disturbs nobody at the keyboard. */
const NICE = 10;
const SAY_EVERY_MS = 15_000;
const FLAGS = ["-mod=readonly", "-trimpath", "-buildvcs=false"] as const;

/** @throws Error saying what to install */
export async function goToolchain(module: Module): Promise<Toolchain> {
  const wanted = /^go (\S+)/m.exec(readFileSync(join(module.folder, "go.mod"), "utf8"))?.[1] ?? "";
  const asked = await finish(["go", "env", "GOVERSION", "GOARCH"], { timeoutMs: 60_000 }).catch(() => undefined);
  if (asked?.code !== 0)
    throw new Error(`Go is missing: install Go ${wanted} or newer (the distribution's own is too old)`);
  const [version = "", arch = ""] = asked.stdout.trim().split("\n");
  return { version, arch };
}

/** Folder name of what a module's programs are made of. */
export function buildKey(module: Module, toolchain: Toolchain): string {
  const hash = createHash("sha256");
  const own = Object.values({ ...module.programs, ...module.tests }).filter((pkg) => pkg.startsWith("."));
  for (const file of [
    "go.mod",
    "go.sum",
    ...own.flatMap((pkg) => globSync(`${pkg}/*.go`, { cwd: module.folder }).sort()),
  ])
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(module.folder, file)))
      .update("\0");
  const made = module.tests === undefined ? [module.programs] : [module.programs, module.tests];
  hash.update(JSON.stringify([...made, linkerFlags(module), FLAGS, toolchain]));
  return `${module.name}-${moduleVersion(module)}-${hash.digest("hex").slice(0, 16)}`;
}

const linkerFlags = (module: Module): string =>
  ["-s", "-w", ...module.variables(moduleVersion(module)).flatMap((v) => ["-X", v])].join(" ");

/**
 * Builds the module's programs unless they are there; one module at a time on the machine.
 * @param say gets a line when a build begins, every 15 s and at its end
 * @throws Error with the compiler's last words
 */
export async function buildModule(cache: string, module: Module, say: (line: string) => void): Promise<Built> {
  const toolchain = await goToolchain(module);
  const version = moduleVersion(module);
  const folder = join(cache, buildKey(module, toolchain));
  const there = { name: module.name, version, folder, seconds: 0 };
  if (existsSync(folder)) return there;
  const waiting = (): void => say(`${module.name}: another build is running, waiting for it`);
  return withLock(join(cache, "build.lock"), waiting, async () => {
    if (existsSync(folder)) return there;
    const began = performance.now();
    const draft = `${folder}.new`;
    rmSync(draft, { recursive: true, force: true });
    mkdirSync(draft, { recursive: true });
    const make = (words: readonly string[], program: string, pkg: string): Promise<void> => {
      const args = [...words, ...FLAGS, "-v", "-ldflags", linkerFlags(module), "-o", join(draft, program), pkg];
      return compile(module, `${program} ${version}`, args, say);
    };
    for (const [program, pkg] of Object.entries(module.programs)) await make(["build"], program, pkg);
    // First what they test: of the tests themselves `go` tells no progress.
    if (module.tests !== undefined)
      await compile(module, `${module.name} ${version}`, ["build", ...FLAGS, "-v", "-o", "/dev/null", module.of], say);
    for (const [program, pkg] of Object.entries(module.tests ?? {})) await make(["test", "-c"], program, pkg);
    mkdirSync(dirname(folder), { recursive: true });
    renameSync(draft, folder);
    const seconds = Math.round((performance.now() - began) / 1000);
    say(`${module.name} ${version}: built in ${seconds} s`);
    return { ...there, seconds };
  });
}

/** Runs `go`; `-v` names each package that is compiled, which is what progress can be told by. */
async function compile(
  module: Module,
  what: string,
  args: readonly string[],
  say: (line: string) => void,
): Promise<void> {
  const began = performance.now();
  let packages = 0;
  let said = "";
  const child = spawn("nice", ["-n", String(NICE), "go", ...args], {
    cwd: module.folder,
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "", GOWORK: "off" },
  });
  child.stderr.on("data", (b: Buffer) => {
    const text = b.toString();
    packages += text.split("\n").length - 1;
    said = (said + text).slice(-4_000);
  });
  say(`${what}: building`);
  const timer = setInterval(() => {
    say(`${what}: ${packages} packages compiled, ${Math.round((performance.now() - began) / 1000)} s`);
  }, SAY_EVERY_MS);
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (status, signal) => resolve(exitCode(status, signal)));
    });
    if (code !== 0)
      throw new Error(`${what}: go ${args.join(" ").slice(0, 120)}...: exit code ${code}: ${lastWords(said)}`);
  } finally {
    clearInterval(timer);
  }
}

/** The compiler's messages without the names of packages that went well. */
const lastWords = (said: string): string =>
  said
    .split("\n")
    .filter((line) => !/^[\w.-]+(\/[\w.~-]+)*$/.test(line))
    .slice(-12)
    .join("\n")
    .trim();
