// Manifest files that are found empty: mostly they are being written, and their writer may have been stopped for a while, so what they held stays in force until then.

export class Emptied {
  readonly #keepMs: number;
  readonly #sinceMs = new Map<string, number>();

  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  /**
   * How much longer what `path` held stays in force, ms; 0: take it as it is now.
   * @param hadObjects whether the file held any when it was last taken
   * @param nowMs monotonic
   */
  leftMs(path: string, text: string, hadObjects: boolean, nowMs: number): number {
    if (text !== "" || !hadObjects) {
      this.#sinceMs.delete(path);
      return 0;
    }
    const sinceMs = this.#sinceMs.get(path) ?? nowMs;
    this.#sinceMs.set(path, sinceMs);
    const leftMs = sinceMs + this.#keepMs - nowMs;
    if (leftMs <= 0) this.#sinceMs.delete(path);
    return Math.max(0, leftMs);
  }

  /** The file is gone. */
  forget(path: string): void {
    this.#sinceMs.delete(path);
  }
}
