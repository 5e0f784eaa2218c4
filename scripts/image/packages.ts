// npm packages of an image: those that its program needs, as package-lock.json resolves them for this platform, without what only people
// and compilers read.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { folderEntries, type TreeEntry } from "./tar.ts";

interface Locked {
  readonly version?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
}
type Lock = Readonly<Record<string, Locked>>;

export interface Platform {
  readonly os: string;
  readonly cpu: string;
  readonly libc: string;
}

/** npm's rule: listed, or not listed with a "!"; no list means any. */
const allows = (list: readonly string[] | undefined, value: string): boolean =>
  list === undefined || list.some((l) => l === value) || list.every((l) => l.startsWith("!") && l !== `!${value}`);

const runsOn = (entry: Locked, platform: Platform): boolean =>
  allows(entry.os, platform.os) && allows(entry.cpu, platform.cpu) && allows(entry.libc, platform.libc);

/** Types alone: nothing of them is loaded when a program runs. */
const isTypesOnly = (name: string): boolean => name.startsWith("@types/") || name === "undici-types";

/** Folder of `name` as `from` (a folder in node_modules, "" for the project) would find it. */
function resolve(lock: Lock, name: string, from: string): string | undefined {
  for (let at = from; at !== ""; at = at.slice(0, Math.max(0, at.lastIndexOf("/node_modules/")))) {
    const nested = `${at}/node_modules/${name}`;
    if (lock[nested] !== undefined) return nested;
  }
  const place = `node_modules/${name}`;
  return lock[place] === undefined ? undefined : place;
}

/**
 * Folders below the project (node_modules/...) of packages and everything that they depend on, sorted.
 * @param lock "packages" of package-lock.json
 * @throws Error for a package that is not locked
 */
export function packageFolders(lock: Lock, names: readonly string[], platform: Platform): readonly string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string, isOptional: boolean): void => {
    if (isTypesOnly(name)) return;
    const place = resolve(lock, name, from);
    if (place === undefined || !runsOn(lock[place] ?? {}, platform)) {
      if (isOptional) return;
      throw new Error(`${name}, needed by ${from || "the image"}, is not in package-lock.json for this platform`);
    }
    if (found.has(place)) return;
    found.add(place);
    const { dependencies = {}, optionalDependencies = {} } = lock[place] ?? {};
    for (const needed of Object.keys({ ...dependencies, ...optionalDependencies }))
      visit(needed, place, needed in optionalDependencies);
  };
  for (const name of names) visit(name, "", false);
  return [...found].sort();
}

/**
 * Licences stay; declarations, source maps, readable sources, a package's own tests, and programs for other machines go. Folders go by their
 * name at a package's top only: further down, "doc" may be a part of the program.
 */
export function isNeededAtRunTime(path: string, platform: Platform): boolean {
  if (/(^|\/)(licen[cs]e|notice|copying)[^/]*$/i.test(path)) return true;
  if (/\.([cm]?ts|tsx|map|md|markdown|flow|c|cc|h|gyp|gypi)$/i.test(path)) return false;
  if (/^(tests?|__tests__|docs?|examples?|bench(marks?)?|coverage|\.github)\//i.test(path)) return false;
  const prebuilt = /(^|\/)prebuilds\/([^/]+)\//.exec(path)?.[2];
  return prebuilt === undefined || prebuilt === `${platform.os}-${platform.cpu}`;
}

export const readLock = (project: string): Lock =>
  (JSON.parse(readFileSync(join(project, "package-lock.json"), "utf8")) as { packages: Lock }).packages;

/** Files of packages below `to`, with their folders. @throws Error for a package that is locked and not installed */
export function packageTree(project: string, folders: readonly string[], to: string, platform: Platform): TreeEntry[] {
  return folders.flatMap((folder) => {
    const at = join(project, folder);
    if (!existsSync(at)) throw new Error(`${folder} is not installed: npm ci --ignore-scripts`);
    return folderEntries(at)
      .filter((e) => e.type === "file" && !e.path.startsWith("node_modules/") && isNeededAtRunTime(e.path, platform))
      .map((e) => ({ ...e, mode: 0o644, path: `${to}/${folder}/${e.path}`, content: { file: join(at, e.path) } }));
  });
}
