// SVIDs and the node's credential in the run directory (tmpfs, root only): they survive the agent, not the node (DP-20).
import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { replaceFile } from "../base/replace-file.ts";

export interface StoredSvid {
  readonly identity: string;
  readonly keyPem: string;
  readonly chainPem: string;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly trustGeneration: number;
}

export class SvidFiles {
  readonly #folder: string;

  constructor(runDir: string) {
    this.#folder = join(runDir, "svids");
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
  }

  /** Every SVID that can be read; broken files are skipped: the SVID is fetched anew. */
  async load(): Promise<readonly StoredSvid[]> {
    const found: StoredSvid[] = [];
    for (const name of await readdir(this.#folder)) {
      if (!name.endsWith(".json")) continue;
      try {
        const svid = JSON.parse(await readFile(join(this.#folder, name), "utf8")) as StoredSvid;
        if (isWhole(svid) && this.#fileOf(svid.identity) === name) found.push(svid);
      } catch {
        await this.#removeFile(name);
      }
    }
    return found;
  }

  async save(svid: StoredSvid): Promise<void> {
    await replaceFile(join(this.#folder, this.#fileOf(svid.identity)), JSON.stringify(svid));
  }

  async remove(identity: string): Promise<void> {
    await this.#removeFile(this.#fileOf(identity));
  }

  #fileOf(identity: string): string {
    return `${createHash("sha256").update(identity).digest("hex").slice(0, 40)}.json`;
  }
  async #removeFile(name: string): Promise<void> {
    await rm(join(this.#folder, name), { force: true });
  }
}

const isWhole = (svid: StoredSvid): boolean =>
  [svid.identity, svid.keyPem, svid.chainPem].every((text) => typeof text === "string" && text !== "") &&
  [svid.issuedAtMs, svid.notAfterMs, svid.trustGeneration].every((number) => Number.isFinite(number));
