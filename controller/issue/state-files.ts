// Files of the controller's state: whole or not at all, readable by their owner alone, errors as one clear line.
import {
  appendFileSync,
  chmodSync,
  closeSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

export class StateError extends Error {}

export interface StateFiles {
  readonly dir: string;
  /** undefined when there is no such file. */
  read(name: string): string | undefined;
  /** Writes beside, syncs, renames: a crash or full disk leaves the old content. */
  write(name: string, text: string): void;
  /** Adds to the end of a file; a crash may leave the last line cut. */
  append(name: string, text: string): void;
  remove(name: string): void;
}

/** Makes the folder (0700) if needed. Throws StateError when it cannot be used. */
export function openStateFiles(dir: string): StateFiles {
  attempt("cannot be created", dir, () => mkdirSync(dir, { recursive: true, mode: 0o700 }));
  const info = attempt("cannot be read", dir, () => statSync(dir));
  if (!info.isDirectory()) throw new StateError(`state folder ${dir}: is not a folder`);
  // It holds keys, so whatever made it, nobody else may look in.
  if ((info.mode & 0o077) !== 0) attempt("cannot be closed to others (chmod 700)", dir, () => chmodSync(dir, 0o700));
  const appending = new Map<string, number>();
  const forget = (name: string): void => {
    const fd = appending.get(name);
    appending.delete(name);
    if (fd !== undefined) closeSync(fd);
  };
  return {
    dir,
    read(name) {
      const path = join(dir, name);
      try {
        return readFileSync(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw explain("cannot be read", path, error);
      }
    },
    write(name, text) {
      const path = join(dir, name);
      const beside = `${path}.new`;
      attempt("cannot be written", path, () => {
        const fd = openSync(beside, "w", 0o600);
        try {
          const bytes = Buffer.from(text);
          for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
          fsyncSync(fd);
        } finally {
          closeSync(fd);
        }
        forget(name);
        renameSync(beside, path);
        const folder = openSync(dirname(path), "r");
        try {
          fsyncSync(folder);
        } finally {
          closeSync(folder);
        }
      });
    },
    append(name, text) {
      const path = join(dir, name);
      attempt("cannot be written", path, () => {
        // Open for as long as it is the file of that name.
        let fd = appending.get(name);
        if (fd === undefined || fstatSync(fd).nlink === 0) {
          forget(name);
          fd = openSync(path, "a", 0o600);
          appending.set(name, fd);
        }
        appendFileSync(fd, text);
      });
    },
    remove(name) {
      const path = join(dir, name);
      forget(name);
      attempt("cannot be removed", path, () => rmSync(path, { force: true }));
    },
  };
}

function attempt<T>(what: string, path: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw explain(what, path, error);
  }
}

function explain(what: string, path: string, error: unknown): StateError {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  const hints: Readonly<Record<string, string>> = {
    ENOSPC: "the disk is full: free some space",
    EDQUOT: "the quota is used up: free some space",
    EACCES: "permission denied: the controller's user must own it",
    EPERM: "permission denied: the controller's user must own it",
    EROFS: "the file system is read-only: choose another FAIRLEAD_STATE_DIR",
    ENOTDIR: "a part of the path is not a folder: choose another FAIRLEAD_STATE_DIR",
  };
  const reason = hints[code] ?? (error instanceof Error ? error.message : String(error));
  return new StateError(`state file ${path} ${what}: ${reason}`);
}
