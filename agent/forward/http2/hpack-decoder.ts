// HPACK decoder (RFC 7541): field blocks to names and values, with the dynamic table of one direction of one connection. What cannot
// be decoded ends the connection, for the table would be lost; what is merely not allowed is told to the sink by its kind.
import { isValue, kind, kindOf } from "./fields.ts";
import { staticEnd, staticKinds, staticNames, staticValues } from "./hpack-static.ts";
import { huffmanDecode } from "./huffman.ts";
import { latin1Slice } from "./latin1.ts";
import { TextCache } from "./text-cache.ts";

export interface FieldSink {
  /** `never`: the sender asks that no hop puts the field into a table (RFC 7541 §6.2.3). */
  field(name: string, value: string, kind: number, never: boolean): void;
}

export type HpackError = "hpack_integer" | "hpack_index" | "hpack_huffman" | "hpack_size_update" | "hpack_truncated";

/** Literals after which a connection's texts are remembered. */
const cacheAfter = 32;
/** Field blocks are decoded one at a time, start to end: all decoders of a thread share this. */
let scratch = Buffer.allocUnsafeSlow(4_096);

export class HpackDecoder {
  /** What size updates may go up to: our SETTINGS_HEADER_TABLE_SIZE once it is acknowledged. */
  private allowed: number;
  private maxSize: number;
  private mustUpdate = false;
  private size = 0;
  private count = 0;
  /** Place of the newest entry in the ring. */
  private newest = 0;
  private names: string[] = [];
  private values: string[] = [];
  private kinds: number[] = [];
  private mask: number;
  private at = 0;
  private error: HpackError | null = null;
  /** Made once the connection has shown that it is worth its 5 KB. */
  private cache: TextCache | null = null;
  private literals = 0;

  /** `maxSize`: bytes of the table until another size is said, 4096 by the RFC. */
  constructor(maxSize: number) {
    this.allowed = maxSize;
    this.maxSize = maxSize;
    this.mask = 63;
    this.grow(64);
  }

  /** Entries and bytes of the dynamic table, for tests and the dump. */
  get entries(): number {
    return this.count;
  }
  get bytes(): number {
    return this.size;
  }

  /** Our setting has been acknowledged: a smaller table must be confirmed at the head of the next block (§4.2). */
  setAllowed(bytes: number): void {
    this.allowed = bytes;
    if (this.maxSize > bytes) this.mustUpdate = true;
  }

  /** Decodes one whole field block. The sink gets what precedes an error too. */
  decode(block: Buffer, start: number, end: number, sink: FieldSink): HpackError | null {
    this.at = start;
    this.error = null;
    let fields = 0;
    while (this.at < end) {
      const first = block[this.at] as number;
      if ((first & 0x80) !== 0) {
        const index = this.integer(block, end, 0x7f);
        if (this.error !== null) return this.error;
        if (index === 0) return "hpack_index";
        if (this.mustUpdate) return "hpack_size_update";
        if (index < staticEnd) {
          sink.field(staticNames[index] as string, staticValues[index] as string, staticKinds[index] as number, false);
        } else {
          if (index - staticEnd >= this.count) return "hpack_index";
          const place = (this.newest - (index - staticEnd)) & this.mask;
          sink.field(this.names[place] as string, this.values[place] as string, this.kinds[place] as number, false);
        }
        fields++;
      } else if ((first & 0xe0) === 0x20) {
        // Only at the head of a block, and at most two: the least and the last size (§4.2).
        if (fields !== 0) return "hpack_size_update";
        const size = this.integer(block, end, 0x1f);
        if (this.error !== null) return this.error;
        if (size > this.allowed) return "hpack_size_update";
        this.mustUpdate = false;
        this.maxSize = size;
        this.evict(size);
      } else {
        if (this.mustUpdate) return "hpack_size_update";
        this.literal(block, end, first, sink);
        if (this.error !== null) return this.error;
        fields++;
      }
    }
    return null;
  }

  private literal(block: Buffer, end: number, first: number, sink: FieldSink): void {
    const indexed = (first & 0x40) !== 0;
    const index = this.integer(block, end, indexed ? 0x3f : 0x0f);
    let name: string;
    let of: number;
    if (this.error !== null) return;
    if (index === 0) {
      name = this.string(block, end);
      of = kindOf(name);
    } else if (index < staticEnd) {
      name = staticNames[index] as string;
      of = staticKinds[index] as number;
    } else {
      if (index - staticEnd >= this.count) {
        this.error = "hpack_index";
        return;
      }
      const place = (this.newest - (index - staticEnd)) & this.mask;
      name = this.names[place] as string;
      of = this.kinds[place] as number;
      // The entry's value was bad, its name may be good.
      if (of === kind.badValue) of = kindOf(name);
    }
    if (this.error !== null) return;
    const value = this.string(block, end);
    if (this.error !== null) return;
    if (of !== kind.badName && !isValue(value)) of = kind.badValue;
    if (indexed) this.insert(name, value, of);
    sink.field(name, value, of, (first & 0xf0) === 0x10);
  }

  private insert(name: string, value: string, of: number): void {
    const bytes = name.length + value.length + 32;
    if (bytes > this.maxSize) {
      // Too large for the table: it ends empty, which is no error (§4.4).
      this.evict(0);
      return;
    }
    this.evict(this.maxSize - bytes);
    if (this.count > this.mask) this.grow((this.mask + 1) * 2);
    this.newest = (this.newest + 1) & this.mask;
    this.names[this.newest] = name;
    this.values[this.newest] = value;
    this.kinds[this.newest] = of;
    this.count++;
    this.size += bytes;
  }

  private evict(to: number): void {
    while (this.size > to) {
      const oldest = (this.newest - this.count + 1) & this.mask;
      this.size -= (this.names[oldest] as string).length + (this.values[oldest] as string).length + 32;
      this.names[oldest] = "";
      this.values[oldest] = "";
      this.count--;
    }
  }

  private grow(places: number): void {
    const names: string[] = new Array(places).fill("");
    const values: string[] = new Array(places).fill("");
    const kinds: number[] = new Array(places).fill(0);
    for (let i = 0; i < this.count; i++) {
      const from = (this.newest - i) & this.mask;
      names[this.count - 1 - i] = this.names[from] as string;
      values[this.count - 1 - i] = this.values[from] as string;
      kinds[this.count - 1 - i] = this.kinds[from] as number;
    }
    this.names = names;
    this.values = values;
    this.kinds = kinds;
    this.mask = places - 1;
    this.newest = (this.count - 1) & this.mask;
  }

  /** §5.1. Nothing here needs more than 28 bits. */
  private integer(block: Buffer, end: number, prefix: number): number {
    let value = (block[this.at++] as number) & prefix;
    if (value < prefix) return value;
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.at >= end) {
        this.error = "hpack_truncated";
        return 0;
      }
      const byte = block[this.at++] as number;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    this.error = "hpack_integer";
    return 0;
  }

  private string(block: Buffer, end: number): string {
    if (this.at >= end) {
      this.error = "hpack_truncated";
      return "";
    }
    const coded = (block[this.at] as number) >= 0x80;
    const length = this.integer(block, end, 0x7f);
    const from = this.at;
    if (this.error === null && length > end - from) this.error = "hpack_truncated";
    if (this.error !== null) return "";
    this.at = from + length;
    const cache = this.cache;
    if (cache === null || !cache.fits(length)) {
      if (++this.literals === cacheAfter) this.cache = new TextCache();
      return this.text(block, from, length, coded);
    }
    const known = cache.find(block, from, from + length, coded);
    if (known !== undefined) return known;
    const made = this.text(block, from, length, coded);
    if (this.error === null) cache.keep(block, from, from + length, coded, made);
    return made;
  }

  private text(block: Buffer, from: number, length: number, coded: boolean): string {
    if (!coded) return latin1Slice(block, from, from + length);
    if (scratch.length < length * 2) scratch = Buffer.allocUnsafeSlow(length * 2);
    const out = huffmanDecode(block, from, from + length, scratch);
    if (out < 0) {
      this.error = "hpack_huffman";
      return "";
    }
    return latin1Slice(scratch, 0, out);
  }
}
