// The last ended connections as raw bytes in one ring: kept without garbage, decoded only when somebody looks.
import { recordBytes } from "./wire-record.ts";

export class RecentRecords {
  readonly #ring: Buffer;
  readonly #capacity: number;
  #total = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#ring = Buffer.alloc(capacity * recordBytes);
  }

  get total(): number {
    return this.#total;
  }

  add(b: Buffer, at: number): void {
    if (this.#capacity === 0) return;
    b.copy(this.#ring, (this.#total % this.#capacity) * recordBytes, at, at + recordBytes);
    this.#total++;
  }

  /** At most `limit` records, newest first, as copies. */
  last(limit: number): readonly Buffer[] {
    const count = Math.min(limit, this.#total, this.#capacity);
    return Array.from({ length: count }, (_, i) => {
      const slot = (this.#total - 1 - i) % this.#capacity;
      return Buffer.from(this.#ring.subarray(slot * recordBytes, (slot + 1) * recordBytes));
    });
  }
}
