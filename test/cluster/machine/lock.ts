// Locks between processes: a file that flock(1) holds for us, so that the kernel lets go of it however its owner ends. Nothing stays behind.
import { spawn } from "node:child_process";
import { rmdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";

/**
 * Says that it has the lock, and keeps it until its input ends: with our process, at the latest. Whoever held the lock before has removed
 * the file; a lock on a file that is there no more counts for nothing, so it is taken again.
 */
const HOLDER = `
while :; do
  mkdir -p -m 0700 "$(dirname "$1")" || exit 1
  { command exec 9>>"$1"; } 2>/dev/null || continue
  flock --exclusive 9 || exit 1
  [ "$1" -ef /proc/self/fd/9 ] && break
done
echo locked
read -r _
exit 0`;

/** Silence before somebody who waits is told for whom. */
const SAY_AFTER_MS = 2_000;

/**
 * Runs `work` while this process alone holds `file`.
 * @param waiting called once if another process has held the lock for two seconds
 * @throws what `work` throws, or Error if flock(1) cannot be run
 */
export async function withLock<T>(file: string, waiting: () => void, work: () => Promise<T>): Promise<T> {
  const holder = spawn("/bin/sh", ["-c", HOLDER, "lock", file], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true, // ^C in a terminal is for us to answer
  });
  holder.stdin.on("error", () => undefined);
  const ended = new Promise<void>((resolve) => holder.once("close", () => resolve()));
  const timer = setTimeout(waiting, SAY_AFTER_MS);
  try {
    await new Promise<void>((resolve, reject) => {
      holder.once("error", (e) => reject(new Error(`/bin/sh cannot be run: ${e.message}`)));
      holder.stdout.once("data", () => resolve());
      holder.once("exit", (code) => reject(new Error(`flock(1) of ${file}: exit code ${code}`)));
    });
  } finally {
    clearTimeout(timer);
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
    holder.stdin.end();
    await ended;
    removeIfEmpty(dirname(file));
  }
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // in use, or gone
  }
}
