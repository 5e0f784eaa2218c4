// Small file habits of the lab: whole-file replacement, in-place update for bind-mounted files, tails of logs.
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

let serial = 0;

/** Replaces a file so that a reader sees the old or the new text, never half of it. */
export function replaceFile(path: string, text: string, mode = 0o600): void {
  const draft = join(dirname(path), `.${process.pid}.${serial++}.tmp`);
  writeFileSync(draft, text, { mode });
  renameSync(draft, path);
}

/** Rewrites a file without changing its inode: a bind mount of it shows the new text. One write, so readers do not find it empty. */
export function rewriteInPlace(path: string, text: string): void {
  const fd = openSync(path, "r+");
  try {
    writeSync(fd, text, 0);
    ftruncateSync(fd, Buffer.byteLength(text));
  } finally {
    closeSync(fd);
  }
}

export const makeDir = (path: string, mode = 0o700): void => void mkdirSync(path, { recursive: true, mode });
export const removePath = (path: string): void => rmSync(path, { recursive: true, force: true });

export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The last lines of a log, for messages. */
export function tail(path: string, lines: number): string[] {
  return readText(path).trimEnd().split("\n").filter(Boolean).slice(-lines);
}

export function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch {
    return 0;
  }
}
