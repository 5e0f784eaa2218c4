// An earlier version of this checkout, ready to run: its files out of git, its native library built, both kept under .cache/versions for the next time.
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

export interface OldVersion {
  readonly commit: string;
  /** When and why, as git tells. */
  readonly about: string;
  /** A checkout that agents can be run from. */
  readonly dir: string;
}

const kept = join(PROJECT_DIR, ".cache/versions");
const buildTimeoutMs = 1_800_000;

/** @throws Error with what the tool said */
async function tool(what: string, argv: readonly string[], env?: Readonly<Record<string, string>>): Promise<string> {
  const own = env === undefined ? {} : { env: { ...(process.env as Record<string, string>), ...env } };
  const done = await finish(argv, { timeoutMs: buildTimeoutMs, ...own });
  if (done.code !== 0)
    throw new Error(`${what}: ${argv.join(" ")} ended with ${done.code}: ${done.stderr.slice(-800)}`);
  return done.stdout.trim();
}

/** Its packages are ours where both lock files say the same, else its own. */
async function givePackages(dir: string): Promise<void> {
  const lock = (of: string): string => readFileSync(join(of, "package-lock.json"), "utf8");
  if (lock(dir) === lock(PROJECT_DIR)) symlinkSync(join(PROJECT_DIR, "node_modules"), join(dir, "node_modules"));
  else await tool("its npm packages", ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir]);
}

/** @throws Error when there is no such commit, or it cannot be built */
export async function oldVersion(name: string, say: (line: string) => void): Promise<OldVersion> {
  const git = ["git", "-C", PROJECT_DIR];
  const commit = await tool("git", [...git, "rev-parse", "--verify", "--quiet", `${name}^{commit}`]).catch(() => {
    throw new Error(
      `--old ${name}: this clone has no such commit; name one that it has, or fetch the others: git fetch --unshallow`,
    );
  });
  const about = await tool("git", [...git, "log", "-1", "--format=%h of %cs: %s", commit]);
  const dir = join(kept, commit);
  if (!existsSync(dir)) {
    const fresh = `${dir}.${process.pid}`;
    mkdirSync(fresh, { recursive: true });
    try {
      const archive = `git -C "$1" archive "$2" | tar -x -C "$3"`;
      await tool("its files", ["sh", "-c", archive, "sh", PROJECT_DIR, commit, fresh]);
      await givePackages(fresh);
      renameSync(fresh, dir);
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
  }
  const library = join(dir, "native/target/release/libfairlead.so");
  if (!existsSync(library)) {
    say(`building the native library of ${about}`);
    const target = join(kept, "target");
    const manifest = join(dir, "native/Cargo.toml");
    const cargo = ["cargo", "build", "--release", "--locked", "--lib", "--quiet", "--manifest-path", manifest];
    await tool("its native library", cargo, { CARGO_TARGET_DIR: target });
    mkdirSync(join(dir, "native/target/release"), { recursive: true });
    copyFileSync(join(target, "release/libfairlead.so"), `${library}.new`);
    renameSync(`${library}.new`, library);
  }
  return { commit, about, dir };
}
