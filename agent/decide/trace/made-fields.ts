// Ids that a request is given here, and the fields that tell its next server of them: numbers until somebody asks. Whoever writes HTTP/1
// gets whole lines, in which only the digits are new: as text each id would be made, joined, checked and encoded for every request.
import type { Random } from "../../base/random.ts";
import type { HeaderList, MadeFields } from "../../http.ts";
import { writeTraceparent } from "./w3c.ts";

// Which fields are made: bits.
const TRACEPARENT = 1;
const REQUEST_ID = 2;
const CORRELATION_ID = 4;

// Where the ids lie among the bytes drawn.
const traceAt = 0;
const spanAt = 16;
const requestAt = 24;
const drawnBytes = 40;

const traceparentLength = 55;
const uuidLength = 36;

const digits = new Uint8Array(Buffer.from("0123456789abcdef"));

/** The lines of one choice of fields, and where their digits begin; -1: not there. */
interface Block {
  readonly bytes: Buffer;
  readonly traceparent: number;
  readonly requestId: number;
  readonly correlationId: number;
}
// One for the thread: whoever asks for lines copies them at once.
const blocks: readonly Block[] = Array.from({ length: 8 }, (_, kinds) => blockOf(kinds));

function blockOf(kinds: number): Block {
  let text = "";
  const place = (bit: number, name: string, value: string): number => {
    if ((kinds & bit) === 0) return -1;
    const at = text.length + name.length + 2;
    text += `${name}: ${value}\r\n`;
    return at;
  };
  const uuid = "00000000-0000-0000-0000-000000000000";
  const traceparent = place(TRACEPARENT, "traceparent", writeTraceparent("0".repeat(32), "0".repeat(16), 0));
  const requestId = place(REQUEST_ID, "x-request-id", uuid);
  const correlationId = place(CORRELATION_ID, "x-correlation-id", uuid);
  return { bytes: Buffer.from(text), traceparent, requestId, correlationId };
}

function putHex(to: Buffer, at: number, from: Uint8Array, begin: number, end: number): number {
  for (let i = begin; i < end; i++) {
    const byte = from[i] as number;
    to[at++] = digits[byte >> 4] as number;
    to[at++] = digits[byte & 15] as number;
  }
  return at;
}
function putUuid(to: Buffer, at: number, from: Uint8Array): void {
  // Groups of 4, 2, 2, 2 and 6 bytes; the dashes stand already.
  let next = putHex(to, at, from, requestAt, requestAt + 4) + 1;
  for (let group = 4; group < 10; group += 2)
    next = putHex(to, next, from, requestAt + group, requestAt + group + 2) + 1;
  putHex(to, next, from, requestAt + 10, requestAt + 16);
}

/** Random words at `from` up to `to`, not all of them 0. */
function draw(random: Random, words: Uint32Array, from: number, to: number): void {
  let any = 0;
  for (let i = from; i < to; i++) {
    const word = random.below(0x1_0000_0000);
    words[i] = word;
    any |= word;
  }
  if (any === 0) words[to - 1] = 1;
}

/** Those of one request after the other. */
export class MadeIds implements MadeFields {
  readonly #words = new Uint32Array(drawnBytes / 4);
  readonly #bytes = new Uint8Array(this.#words.buffer);
  #kinds = 0;
  #flags = 0;
  #list: HeaderList | undefined;

  get isEmpty(): boolean {
    return this.#kinds === 0;
  }

  clear(): void {
    this.#kinds = 0;
    this.#list = undefined;
  }

  /** A trace begins, with a span in it. `flags`: those of `traceparent`. */
  beginTrace(random: Random, flags: number): void {
    draw(random, this.#words, traceAt / 4, spanAt / 4);
    draw(random, this.#words, spanAt / 4, requestAt / 4);
    this.#flags = flags;
    this.#kinds |= TRACEPARENT;
  }

  newRequestId(random: Random): void {
    draw(random, this.#words, requestAt / 4, drawnBytes / 4);
    const bytes = this.#bytes;
    // Version 4 (RFC 9562 §5.4).
    bytes[requestAt + 6] = ((bytes[requestAt + 6] as number) & 0x0f) | 0x40;
    bytes[requestAt + 8] = ((bytes[requestAt + 8] as number) & 0x3f) | 0x80;
    this.#kinds |= REQUEST_ID;
  }

  /** The id of the request, which was made here, is the correlation's too. */
  correlate(): void {
    this.#kinds |= CORRELATION_ID;
  }

  /** Of the trace that was begun. */
  get traceId(): string {
    return (this.list[1] as string).slice(3, 35);
  }
  get spanId(): string {
    return (this.list[1] as string).slice(36, 52);
  }
  /** Of the request, if it was made. */
  get requestId(): string {
    return this.list.at(-1) as string;
  }

  get list(): HeaderList {
    this.#list ??= this.#fields();
    return this.#list;
  }

  #fields(): HeaderList {
    const bytes = this.lines;
    const { traceparent, requestId, correlationId } = blocks[this.#kinds] as Block;
    const list: string[] = [];
    if (traceparent >= 0)
      list.push("traceparent", bytes.toString("latin1", traceparent, traceparent + traceparentLength));
    const id = requestId < 0 ? "" : bytes.toString("latin1", requestId, requestId + uuidLength);
    if (requestId >= 0) list.push("x-request-id", id);
    if (correlationId >= 0) list.push("x-correlation-id", id);
    return list;
  }

  get lines(): Buffer {
    const { bytes, traceparent, requestId, correlationId } = blocks[this.#kinds] as Block;
    const drawn = this.#bytes;
    if (traceparent >= 0) {
      const dash = putHex(bytes, traceparent + 3, drawn, traceAt, spanAt);
      bytes[putHex(bytes, dash + 1, drawn, spanAt, requestAt) + 2] = digits[this.#flags] as number;
    }
    if (requestId >= 0) putUuid(bytes, requestId, drawn);
    if (correlationId >= 0) bytes.copyWithin(correlationId, requestId, requestId + uuidLength);
    return bytes;
  }
}
