// HPACK encoder (RFC 7541) of one direction of one connection. A value enters the table when it is seen again, so that what never
// repeats (trace ids, dates) neither costs an insertion nor pushes out what does.
import { staticEnd, staticNames, staticValues } from "./hpack-static.ts";
import { huffmanEncode, huffmanLength } from "./huffman.ts";
import { latin1Write } from "./latin1.ts";

/** What is known of one name: its places in the tables, and values seen of late. */
class NameSlot {
  readonly name: string;
  /** 0: not in the static table. */
  readonly index: number;
  readonly values: readonly string[];
  /** Numbers of live entries of the dynamic table, oldest first. */
  readonly live: number[] = [];
  readonly seen: [string, string, string, string] = ["", "", "", ""];
  turn = 0;

  constructor(name: string, index: number, values: readonly string[]) {
    this.name = name;
    this.index = index;
    this.values = values;
  }
}

const staticSlots = new Map<string, { readonly index: number; readonly values: string[] }>();
for (let i = 1; i < staticEnd; i++) {
  const name = staticNames[i] as string;
  const slot = staticSlots.get(name);
  if (slot === undefined) staticSlots.set(name, { index: i, values: [staticValues[i] as string] });
  else slot.values.push(staticValues[i] as string);
}

/** Names beyond the static ones that are remembered; the memory of a connection stays bounded whatever passes. */
const maxNames = 128;
/** Longer values are not remembered, hence never enter the table. */
const maxRemembered = 1_024;
/** Short ones could be guessed byte by byte from sizes (§7.1.3). */
const secrets = new Set(["authorization", "proxy-authorization", "cookie", "set-cookie"]);
const guessable = 20;

/** Most bytes that a field of such lengths takes. */
export const fieldBound = (name: string, value: string): number => name.length + value.length + 16;

export interface EncoderOptions {
  /** Huffman code costs both ends time; between nodes of one cluster bytes are cheaper. */
  readonly huffman: boolean;
  /** Largest table of ours whatever the peer allows, bytes. */
  readonly maxTable: number;
}

export class HpackEncoder {
  private readonly options: EncoderOptions;
  private readonly slots = new Map<string, NameSlot>();
  private maxSize: number;
  /** Least size since the last block, -1: none was said. */
  private pending = -1;
  private size = 0;
  /** Entries are numbered from 0 up; the newest is `next` - 1, the oldest `oldest`. */
  private next = 0;
  private oldest = 0;
  private readonly entrySlots: NameSlot[] = [];
  private readonly entryValues: string[] = [];
  private mask = 63;

  constructor(options: EncoderOptions) {
    this.options = options;
    this.maxSize = Math.min(4_096, options.maxTable);
    if (this.maxSize < 4_096) this.pending = this.maxSize;
    while ((this.mask + 1) * 32 < options.maxTable) this.mask = this.mask * 2 + 1;
  }

  get entries(): number {
    return this.next - this.oldest;
  }
  get bytes(): number {
    return this.size;
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. */
  setMaxSize(bytes: number): void {
    const size = Math.min(bytes, this.options.maxTable);
    if (size === this.maxSize && this.pending < 0) return;
    this.pending = this.pending < 0 ? Math.min(size, this.maxSize) : Math.min(size, this.pending);
    this.maxSize = size;
    this.evict(Math.min(this.pending, size));
  }

  /** Before the fields of every block: says changes of the table's size (§4.2). At most 12 bytes. */
  begin(to: Buffer, at: number): number {
    if (this.pending < 0) return at;
    let place = at;
    if (this.pending < this.maxSize) place = this.integer(to, place, 0x20, 0x1f, this.pending);
    this.pending = -1;
    return this.integer(to, place, 0x20, 0x1f, this.maxSize);
  }

  /** Writes one field and returns the place after it. `never`: no hop may index it. At most `fieldBound` bytes. */
  field(name: string, value: string, never: boolean, to: Buffer, at: number): number {
    let slot = this.slots.get(name);
    if (slot === undefined) slot = this.learn(name);
    const guarded = never || (value.length < guessable && secrets.has(name));
    if (!guarded) {
      const values = slot.values;
      for (let i = 0; i < values.length; i++) {
        if (values[i] === value) return this.integer(to, at, 0x80, 0x7f, slot.index + i);
      }
      for (let i = slot.live.length - 1; i >= 0; i--) {
        const number = slot.live[i] as number;
        if (this.entryValues[number & this.mask] === value) {
          return this.integer(to, at, 0x80, 0x7f, staticEnd + this.next - 1 - number);
        }
      }
    }
    const insert = !guarded && this.repeats(slot, value);
    let place: number;
    const index =
      slot.index !== 0
        ? slot.index
        : slot.live.length > 0
          ? staticEnd + this.next - 1 - (slot.live[slot.live.length - 1] as number)
          : 0;
    if (insert) place = this.integer(to, at, 0x40, 0x3f, index);
    else place = this.integer(to, at, guarded ? 0x10 : 0, 0x0f, index);
    if (index === 0) place = this.string(to, place, name);
    place = this.string(to, place, value);
    if (insert) this.insert(slot, value);
    return place;
  }

  private learn(name: string): NameSlot {
    const fixed = staticSlots.get(name);
    const slot = new NameSlot(name, fixed?.index ?? 0, fixed?.values ?? []);
    if (this.slots.size >= maxNames) {
      for (const [old, known] of this.slots) if (known.live.length === 0) this.slots.delete(old);
    }
    // Full of live names: this one is written as a literal and forgotten.
    if (this.slots.size < maxNames) this.slots.set(name, slot);
    return slot;
  }

  private repeats(slot: NameSlot, value: string): boolean {
    const size = slot.name.length + value.length + 32;
    if (value.length > maxRemembered || size > this.maxSize) return false;
    const seen = slot.seen;
    if (seen[0] === value || seen[1] === value || seen[2] === value || seen[3] === value) return true;
    seen[slot.turn] = value;
    slot.turn = (slot.turn + 1) & 3;
    return false;
  }

  private insert(slot: NameSlot, value: string): void {
    const bytes = slot.name.length + value.length + 32;
    this.evict(this.maxSize - bytes);
    this.entrySlots[this.next & this.mask] = slot;
    this.entryValues[this.next & this.mask] = value;
    slot.live.push(this.next);
    this.next++;
    this.size += bytes;
  }

  private evict(to: number): void {
    while (this.size > to) {
      const place = this.oldest & this.mask;
      const slot = this.entrySlots[place] as NameSlot;
      this.size -= slot.name.length + (this.entryValues[place] as string).length + 32;
      slot.live.shift();
      this.entryValues[place] = "";
      this.oldest++;
    }
  }

  private integer(to: Buffer, at: number, pattern: number, prefix: number, value: number): number {
    if (value < prefix) {
      to[at] = pattern | value;
      return at + 1;
    }
    let place = at;
    to[place++] = pattern | prefix;
    let left = value - prefix;
    while (left >= 128) {
      to[place++] = (left & 0x7f) | 0x80;
      left >>>= 7;
    }
    to[place++] = left;
    return place;
  }

  private string(to: Buffer, at: number, text: string): number {
    const length = text.length;
    if (this.options.huffman) {
      const coded = huffmanLength(text);
      if (coded < length) return huffmanEncode(text, to, this.integer(to, at, 0x80, 0x7f, coded));
    }
    return latin1Write(to, text, this.integer(to, at, 0, 0x7f, length));
  }
}
