// Bytes of a watch -> its lines, however they are cut. A line longer than the limit ends the reading: it would fill memory.

export type Pushed = "more" | "stopped" | "too_long";

export class LineReader {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #length = 0;

  /** `maxBytes`: of one line, its end not counted. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes of a line whose end has not come. */
  get pendingBytes(): number {
    return this.#length;
  }

  /** Calls `line` for each line that ends in `chunk`, empty ones left out; what it answers with false is the last. */
  push(chunk: Buffer, line: (text: string) => boolean): Pushed {
    let from = 0;
    for (;;) {
      const end = chunk.indexOf(10, from);
      const part = chunk.subarray(from, end < 0 ? chunk.length : end);
      if (this.#length + part.length > this.#maxBytes) return "too_long";
      if (end < 0) {
        // A copy: the chunk's memory is the socket's, and would be kept whole for a few bytes.
        if (part.length > 0) this.#parts.push(Buffer.from(part));
        this.#length += part.length;
        return "more";
      }
      const text = this.#parts.length === 0 ? part.toString("utf8") : this.#join(part);
      this.#parts = [];
      this.#length = 0;
      from = end + 1;
      const trimmed = text.endsWith("\r") ? text.slice(0, -1) : text;
      if (trimmed !== "" && !line(trimmed)) return "stopped";
    }
  }

  #join(last: Buffer): string {
    return Buffer.concat([...this.#parts, last]).toString("utf8");
  }
}
