// Keeps discovery on disk, so that an agent starts without its controller (DIS-3). Written whole, atomically, soon after a
// change; the file's modification time says when the controller was last heard. A full disk is counted and changes nothing else.
import { mkdir, readFile, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { MeshResource } from "../api/resources.ts";
import type { Clock } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import { replaceFile } from "../base/replace-file.ts";
import { type CacheContent, decodeCache, encodeCache } from "./cache-file.ts";
import type { Versions } from "./controller-source.ts";

export interface CacheParts {
  readonly folder: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** How long changes are gathered before they are written, ms. */
  readonly delayMs: number;
  readonly snapshot: () => Iterable<MeshResource>;
  readonly versions: Versions;
  readonly failed: () => void;
}
export interface LoadedCache extends CacheContent {
  /** Unix ms at which the controller was last known to agree with this content. */
  readonly lastContactMs: number;
}

export class DiscoveryCache {
  readonly #parts: CacheParts;
  readonly #path: string;
  #cancel: (() => void) | undefined;
  #writing: Promise<void> = Promise.resolve();
  /** While an older agent still drains, the file is the newer one's (docs/takeover.md). */
  #owned = true;
  #lastError = "";

  constructor(parts: CacheParts) {
    this.#parts = parts;
    this.#path = join(parts.folder, "discovery.cache");
  }

  get status() {
    return { path: this.#path, owned: this.#owned, lastError: this.#lastError };
  }

  /** What is on disk; undefined if there is nothing that can be used (logged why). */
  async load(): Promise<LoadedCache | undefined> {
    try {
      const decoded = decodeCache(await readFile(this.#path));
      if (!decoded.ok) {
        this.#parts.log.warn("cache_ignored", { path: this.#path, reason: decoded.error });
        return undefined;
      }
      const { mtimeMs } = await stat(this.#path);
      return { ...decoded.value, lastContactMs: Math.max(decoded.value.savedAtMs, Math.floor(mtimeMs)) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT")
        this.#parts.log.warn("cache_ignored", { path: this.#path, reason: messageOf(error) });
      return undefined;
    }
  }

  /** Something changed: it is written within `delayMs`. */
  changed(): void {
    this.#cancel ??= this.#parts.clock.after(this.#parts.delayMs, () => {
      this.#cancel = undefined;
      void this.flush();
    });
  }

  /** Notes that the controller was heard just now. */
  async touch(): Promise<void> {
    if (!this.#owned) return;
    const now = new Date(this.#parts.clock.now());
    await utimes(this.#path, now, now).catch(() => {}); // not written yet: the write will say it
  }

  /** Writes now, after any write under way. */
  flush(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    return this.#writing;
  }

  /** No write starts after this: the successor owns the file. */
  async disown(): Promise<void> {
    this.#owned = false;
    this.#cancel?.();
    await this.#writing;
  }

  async #write(): Promise<void> {
    if (!this.#owned) return;
    const { folder, clock, log, snapshot, versions } = this.#parts;
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      // What changes while this is written is in it or comes with the next write: every entry is whole with its version.
      const pieces = encodeCache(snapshot(), versions, clock.now());
      await replaceFile(this.#path, pieces, { isStillWanted: () => this.#owned });
      this.#lastError = "";
    } catch (error) {
      if (this.#lastError === "") log.error("cache_not_written", { path: this.#path, message: messageOf(error) });
      this.#lastError = messageOf(error);
      this.#parts.failed();
    }
  }
}
