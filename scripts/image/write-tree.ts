// A tree as files in a folder: what the Dockerfiles copy.
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TreeEntry } from "./tar.ts";

/** @throws Error if the folder has something in it already */
export function writeTree(tree: readonly TreeEntry[], to: string): void {
  if (existsSync(to) && readdirSync(to).length > 0) throw new Error(`${to} is not empty: give a new folder`);
  mkdirSync(to, { recursive: true });
  for (const { path, type, mode, target = "", content } of tree) {
    const at = join(to, path);
    if (type === "link") symlinkSync(target, at);
    else if (type === "folder") mkdirSync(at, { recursive: true });
    else if (content === undefined) throw new Error(`${path} has no content`);
    else if ("bytes" in content) writeFileSync(at, content.bytes);
    else copyFileSync(content.file, at);
    if (type !== "link") chmodSync(at, mode); // not what the umask leaves of it
  }
}
