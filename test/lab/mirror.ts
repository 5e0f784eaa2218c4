// The lab's own copy of the manifests folder, which the controller reads. The user's files are never written: apply and delete change the copy only.
import { type FSWatcher, readdirSync, readFileSync, watch } from "node:fs";
import { dirname, join } from "node:path";
import { stringify } from "yaml";
import { Emptied } from "../../controller/sources/emptied.ts";
import { makeDir, removePath, replaceFile } from "./files.ts";
import { type KubeObject, objectKey, type Problem, parseManifest } from "./objects.ts";

const APPLIED = "applied";
/** Longer than a poll, so that more than one look finds it empty. */
const EMPTY_MS = 2500;
const isManifest = (file: string): boolean =>
  /\.(ya?ml|json)$/.test(file) && !file.split("/").some((part) => part.startsWith("."));

interface Source {
  readonly text: string;
  readonly objects: readonly KubeObject[];
  readonly problems: readonly Problem[];
  /** Objects of this file that `apply` replaced or `delete` removed; until the file itself changes. */
  readonly hidden: ReadonlySet<string>;
}

export class Mirror {
  readonly #from: string;
  readonly #to: string;
  readonly #nowMs: () => number;
  readonly #files = new Map<string, Source>();
  readonly #emptied = new Emptied(EMPTY_MS);
  #watchers: FSWatcher[] = [];
  #poll: NodeJS.Timeout | undefined;
  #settle: NodeJS.Timeout | undefined;

  /** @param nowMs monotonic */
  constructor(from: string, to: string, nowMs = (): number => performance.now()) {
    this.#from = from;
    this.#to = to;
    this.#nowMs = nowMs;
  }

  /** Objects in force; of two with one name the later file wins, as for the controller. */
  objects(): KubeObject[] {
    const out = new Map<string, KubeObject>();
    for (const file of [...this.#files.keys()].sort()) {
      const source = this.#files.get(file);
      for (const object of source?.objects ?? [])
        if (source?.hidden.has(objectKey(object)) === false) out.set(objectKey(object), object);
    }
    return [...out.values()];
  }

  problems(): Problem[] {
    return [...this.#files.values()].flatMap((s) => s.problems);
  }

  /** Reads the folder again. @returns true if anything changed. */
  sync(): boolean {
    let changed = false;
    const seen = new Set<string>();
    for (const entry of readdirSync(this.#from, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() && !entry.isSymbolicLink()) continue;
      const path = join(entry.parentPath, entry.name);
      const file = path.slice(this.#from.length + 1);
      if (!isManifest(file)) continue;
      let text: string;
      try {
        text = readFileSync(path, "utf8");
      } catch {
        continue; // it went between the listing and the reading
      }
      seen.add(file);
      const known = this.#files.get(file);
      if (this.#emptied.leftMs(file, text, (known?.objects.length ?? 0) > 0, this.#nowMs()) > 0) continue;
      if (known?.text === text) continue;
      this.#set(file, { text, ...parseManifest(text, file), hidden: new Set() });
      changed = true;
    }
    for (const file of [...this.#files.keys()]) {
      if (seen.has(file) || file.startsWith(`${APPLIED}/`)) continue;
      this.#files.delete(file);
      this.#emptied.forget(file);
      removePath(join(this.#to, file));
      changed = true;
    }
    return changed;
  }

  #set(file: string, source: Source): void {
    this.#files.set(file, source);
    const target = join(this.#to, file);
    makeDir(dirname(target));
    const left = source.objects.filter((o) => !source.hidden.has(objectKey(o)));
    replaceFile(target, source.hidden.size === 0 ? source.text : left.map((o) => stringify(o.fields)).join("---\n"));
  }

  /** Takes over the objects of a manifest text. @returns their keys, and problems of documents that do not parse. */
  apply(
    text: string,
    file: string,
  ): { readonly applied: readonly KubeObject[]; readonly problems: readonly Problem[] } {
    const parsed = parseManifest(text, file);
    for (const object of parsed.objects) {
      const own = `${APPLIED}/${object.kind}-${object.namespace}-${object.name}.yaml`.toLowerCase();
      const body = stringify(object.fields);
      this.#hide(objectKey(object), own);
      this.#set(own, { text: body, ...parseManifest(body, own), hidden: new Set() });
    }
    return { applied: parsed.objects, problems: parsed.problems };
  }

  /** Removes an object wherever it came from. @returns false if there is none of that name. */
  remove(key: string): boolean {
    return this.#hide(key, undefined);
  }

  #hide(key: string, except: string | undefined): boolean {
    let found = false;
    for (const [file, source] of [...this.#files]) {
      if (file === except || source.hidden.has(key) || !source.objects.some((o) => objectKey(o) === key)) continue;
      found = true;
      if (file.startsWith(`${APPLIED}/`)) {
        this.#files.delete(file);
        removePath(join(this.#to, file));
      } else this.#set(file, { ...source, hidden: new Set([...source.hidden, key]) });
    }
    return found;
  }

  /** Calls `changed` after changes of the folder; a slow poll covers file systems that tell nothing. */
  watch(changed: () => void): void {
    const check = (): void => {
      clearTimeout(this.#settle);
      this.#settle = setTimeout(() => {
        try {
          if (this.sync()) changed();
        } catch {
          // the folder itself is away for a moment (an editor, a checkout); the poll comes back
        }
      }, 30);
    };
    const watcher = watch(this.#from, { recursive: true }, check);
    watcher.on("error", () => undefined);
    this.#watchers.push(watcher);
    this.#poll = setInterval(check, 2000);
  }

  close(): void {
    for (const w of this.#watchers) w.close();
    this.#watchers = [];
    clearInterval(this.#poll);
    clearTimeout(this.#settle);
  }
}
