// What came of a request's body, for as long as there is no way to the server yet, or as it may have to be sent again. Only memory.
import { OutBuffer } from "../http1/out-buffer.ts";
import { referenceBytes } from "./codes.ts";

export class KeptBody {
  private out: OutBuffer | undefined;
  /** All of the body that came is here. */
  isWhole = true;
  /** The memory was given away. */
  private isLent = false;

  get length(): number {
    return this.out?.len ?? 0;
  }

  /** For the next request. */
  clear(): void {
    if (this.isLent) this.out?.replace();
    else if (this.length > 0) this.out?.clear();
    this.isLent = false;
    this.isWhole = true;
  }

  append(chunk: Buffer): void {
    if (this.out === undefined) this.out = new OutBuffer(Math.max(512, chunk.length));
    this.out.bytes(chunk, 0, chunk.length);
  }

  /** Keeps a chunk that goes out now, unless it makes more than `mostBytes`: then nothing is kept any more. */
  keep(chunk: Buffer, mostBytes: number): void {
    if (!this.isWhole) return;
    if (this.length + chunk.length > mostBytes) this.forget();
    else this.append(chunk);
  }

  /** All of it, to be sent; what is appended later does not change it. */
  take(): Buffer {
    const { out } = this;
    if (out === undefined) return nothing;
    const chunk = out.view();
    // Long content goes by reference.
    if (chunk.length >= referenceBytes) this.isLent = true;
    return chunk;
  }

  trim(mostBytes: number): void {
    if (this.length > mostBytes) this.forget();
  }

  private forget(): void {
    this.clear();
    this.isWhole = false;
  }
}

const nothing: Buffer = Buffer.alloc(0);
