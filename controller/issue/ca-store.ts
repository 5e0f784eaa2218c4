// Where the CA is kept: named texts (certificates, keys, and ca.json, which says what they are), in a folder of this controller alone.
import { jwtKeysName } from "./jwt.ts";
import { StateError, type StateFiles } from "./state-files.ts";

export type CaFiles = ReadonlyMap<string, string>;
export interface CaChange {
  readonly put: CaFiles;
  readonly remove: readonly string[];
}
export interface CaStore {
  /** For messages: "state folder /var/lib/fairlead", "Secret fairlead-system/fairlead-ca". */
  readonly where: string;
  /** Other controllers read and write it too. */
  readonly isShared: boolean;
  /** Everything that is there; empty before the first writing. Throws StateError. */
  load(): Promise<CaFiles>;
  /** "changed": somebody else wrote since the last load, and nothing was written. Throws StateError. */
  save(change: CaChange): Promise<"saved" | "changed">;
}

export const caIndexName = "ca.json";
export const chainNames = (number: number): readonly [string, string, string, string] => [
  `root-${number}.crt`,
  `root-${number}.key`,
  `intermediate-${number}.crt`,
  `intermediate-${number}.key`,
];

/** In the state folder: for one controller with a disk. */
export function folderCaStore(files: StateFiles): CaStore {
  return {
    where: `state folder ${files.dir}`,
    isShared: false,
    async load() {
      const found = new Map<string, string>();
      const index = files.read(caIndexName);
      if (index === undefined) return found;
      found.set(caIndexName, index);
      const jwtKeys = files.read(jwtKeysName);
      if (jwtKeys !== undefined) found.set(jwtKeysName, jwtKeys);
      for (const number of rootNumbers(index))
        for (const name of chainNames(number)) {
          const text = files.read(name);
          if (text !== undefined) found.set(name, text);
        }
      return found;
    },
    async save({ put, remove }) {
      // The index last: until it names them, new files mean nothing.
      for (const [name, text] of put) if (name !== caIndexName) files.write(name, text);
      const index = put.get(caIndexName);
      if (index !== undefined) files.write(caIndexName, index);
      for (const name of remove) files.remove(name);
      return "saved";
    },
  };
}

function rootNumbers(index: string): readonly number[] {
  try {
    const { roots } = JSON.parse(index) as { readonly roots?: unknown };
    return Array.isArray(roots) ? roots.filter(Number.isSafeInteger) : [];
  } catch {
    // Told by whoever reads the index whole.
    return [];
  }
}

/** The index's content, checked. */
export interface CaIndex {
  readonly version: 1;
  /** Grows with every change of the trusted roots or of the one in use. */
  readonly generation: number;
  readonly phase: RotationPhase;
  /** Numbers of the trusted roots; files root-N.crt, root-N.key, intermediate-N.crt, intermediate-N.key. */
  readonly roots: readonly number[];
  readonly active: number;
  /** When the phase was entered; 0 for the first. */
  readonly switchedAtMs: number;
  readonly begunAtMs?: number;
}
export type RotationPhase = "steady" | "both-trusted" | "switched";

/** Throws StateError when it is no index. */
export function parseCaIndex(text: string, where: string): CaIndex {
  try {
    const value = JSON.parse(text) as CaIndex;
    const isFine =
      value.version === 1 &&
      Number.isInteger(value.generation) &&
      Array.isArray(value.roots) &&
      value.roots.includes(value.active);
    if (isFine) return value;
  } catch {
    // Told below.
  }
  throw new StateError(
    `${where}: ${caIndexName} is damaged: restore it from a backup, or remove all to start a new CA`,
  );
}
