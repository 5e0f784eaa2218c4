// Ids of traces, spans and requests out of a given randomness: told apart, not secret.
import type { Random } from "../../base/random.ts";

const words = 0x1_0000_0000;
// Digits are made of bytes at once: number by number they would cost more than the rest of a request's headers.
const drawn = new Uint32Array(4);
/** ECMAScript's own, which the type checker's library does not know yet. */
interface Hex {
  toHex(): string;
}
const bytes = new Uint8Array(drawn.buffer) as Uint8Array & Hex;
const half = new Uint8Array(drawn.buffer, 0, 8) as Uint8Array & Hex;

/** `count` words as 8 hexadecimal digits each. */
function digits(random: Random, count: 2 | 4): string {
  for (let i = 0; i < count; i++) drawn[i] = random.below(words);
  return count === 4 ? bytes.toHex() : half.toHex();
}

/** 32 digits, not all zeros. */
export const newTraceId = (random: Random): string => {
  const id = digits(random, 4);
  return id === "00000000000000000000000000000000" ? "00000000000000000000000000000001" : id;
};
/** 16 digits, not all zeros. */
export const newSpanId = (random: Random): string => {
  const id = digits(random, 2);
  return id === "0000000000000000" ? "0000000000000001" : id;
};
/** A UUID of version 4 (RFC 9562 §5.4). */
export function newRequestId(random: Random): string {
  for (let i = 0; i < 4; i++) drawn[i] = random.below(words);
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  const id = bytes.toHex();
  return `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`;
}
