// What the traffic programs say to each other: a 32-byte head names seed, sizes and who closes first; every byte after it is known to both sides.
import { type Cipheriv, createCipheriv } from "node:crypto";
import type { Socket } from "node:net";

/**
 * Who sends and closes when. `request`: client sends, server answers after the last byte, client closes. `client-fin`: client sends and
 * half closes, server answers and closes. `server-fin`: server sends and half closes, then the client sends and closes. `both`: each
 * sends at once and half closes. `idle`: rounds of 32 bytes, each answered (see IdleProof). `stats`: the server's counts as JSON.
 */
export const orders = ["request", "client-fin", "server-fin", "both", "idle", "stats"] as const;
export type Order = (typeof orders)[number];

export interface Head {
  readonly order: Order;
  readonly seed: number;
  readonly up: number;
  readonly down: number;
}

export const HEAD_BYTES = 32;
const MAGIC = 0x464c5431;

export function encodeHead(head: Head): Buffer {
  const b = Buffer.alloc(HEAD_BYTES);
  b.writeUInt32BE(MAGIC, 0);
  b.writeUInt8(orders.indexOf(head.order), 4);
  b.writeUInt32BE(head.seed, 8);
  b.writeUInt32BE(head.up, 12);
  b.writeUInt32BE(head.down, 16);
  return b;
}

/** @returns undefined for anything that is not a head: bytes were lost or changed on the way. */
export function decodeHead(b: Buffer): Head | undefined {
  const order = orders[b.readUInt8(4)];
  if (b.readUInt32BE(0) !== MAGIC || order === undefined) return undefined;
  return { order, seed: b.readUInt32BE(8), up: b.readUInt32BE(12), down: b.readUInt32BE(16) };
}

/** The bytes of one direction, from a seed: AES in counter mode over zeros, so equal on both sides and without pattern. */
export class Keystream {
  readonly #cipher: Cipheriv;

  constructor(seed: number, direction: "up" | "down") {
    const key = Buffer.alloc(16);
    key.writeUInt32BE(seed, 0);
    key.writeUInt8(direction === "up" ? 1 : 2, 4);
    this.#cipher = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  }
  next(length: number): Buffer {
    return this.#cipher.update(Buffer.alloc(length));
  }
}

/** Checks that what arrives is exactly the keystream, and how much of it. */
export class Checker {
  readonly #stream: Keystream;
  readonly expected: number;
  received = 0;
  same = true;

  constructor(seed: number, direction: "up" | "down", expected: number) {
    this.#stream = new Keystream(seed, direction);
    this.expected = expected;
  }
  take(chunk: Buffer): void {
    this.received += chunk.length;
    if (!this.#stream.next(chunk.length).equals(chunk)) this.same = false;
  }
  get whole(): boolean {
    return this.same && this.received === this.expected;
  }
  /** For messages. */
  get fault(): string {
    return this.same ? `${this.received} of ${this.expected} bytes` : `bytes differ within the first ${this.received}`;
  }
}

const CHUNK = 64 * 1024;

/** Sends `length` bytes of the keystream with back-pressure, then half closes if asked. */
export async function sendAll(
  socket: Socket,
  seed: number,
  direction: "up" | "down",
  length: number,
  end: boolean,
): Promise<void> {
  const stream = new Keystream(seed, direction);
  for (let sent = 0; sent < length && !socket.destroyed; ) {
    const size = Math.min(CHUNK, length - sent);
    sent += size;
    if (!socket.write(stream.next(size))) await drained(socket);
  }
  if (end) socket.end();
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off("drain", done);
      socket.off("close", done);
      resolve();
    };
    socket.once("drain", done);
    socket.once("close", done);
  });
}

/** Small fast generator with a seed: the same seed gives the same run. */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
