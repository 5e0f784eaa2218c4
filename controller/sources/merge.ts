// All files together -> the objects in force: last good versions, one owner per object, live Pods over manifests. Pure.
import type { ParsedFile } from "./parse.ts";
import { type Ignored, type Problem, refKey, refOf, showRef } from "./types.ts";

export interface FileState {
  readonly root: string;
  readonly name: string;
  readonly stamp: string;
  readonly isLive: boolean;
  readonly parsed: ParsedFile;
  /** Objects of this file that were in force before this reading, by key. */
  readonly previous: ReadonlyMap<string, ParsedFile["objects"][number]>;
}
export interface Merged {
  readonly objects: ReadonlyMap<string, ParsedFile["objects"][number]>;
  readonly problems: readonly Problem[];
  readonly ignored: readonly Ignored[];
}

/** An object that became bad, or whose document became unreadable, keeps its last good version (DIS-9). */
export function merge(files: readonly FileState[]): Merged {
  const objects = new Map<string, ParsedFile["objects"][number]>();
  const problems: Problem[] = [];
  const ignored: Ignored[] = [];
  // Live files first: what runs is truer than what was asked for. Then by name, so that ownership does not depend on timing.
  const ordered = [...files].sort((a, b) => Number(b.isLive) - Number(a.isLive) || (a.name < b.name ? -1 : 1));
  const owners = new Map<string, FileState>();
  for (const file of ordered) {
    const bad = new Set(file.parsed.problems.flatMap((p) => (p.object === undefined ? [] : [refKey(p.object)])));
    const own = new Map<string, ParsedFile["objects"][number]>();
    for (const entry of file.parsed.objects) {
      const key = refKey(refOf(entry.object));
      const twin = own.get(key);
      if (twin === undefined) own.set(key, entry);
      else problems.push(twice(entry, `line ${twin.origin.line}`));
    }
    for (const [key, entry] of file.previous) {
      if (!own.has(key) && (file.parsed.isTorn || bad.has(key))) own.set(key, entry);
    }
    for (const [key, entry] of own) {
      const owner = owners.get(key);
      if (owner === undefined) {
        owners.set(key, file);
        objects.set(key, entry);
      } else if (!owner.isLive) {
        problems.push(twice(entry, owner.name));
      } else if (!file.isLive) {
        // What runs is truer, but what is wrong with it is to be corrected where it was asked for.
        const live = objects.get(key);
        if (live?.origin.file === owner.name) objects.set(key, { ...live, origin: entry.origin });
      }
    }
    problems.push(...file.parsed.problems);
    ignored.push(...file.parsed.ignored);
  }
  return { objects, problems, ignored };
}

function twice(entry: ParsedFile["objects"][number], where: string): Problem {
  const object = refOf(entry.object);
  return {
    ...entry.origin,
    object,
    field: "metadata.name",
    message: `${showRef(object)} is already defined in ${where}, which stays in force`,
    fix: "remove one of the two or rename it",
  };
}
