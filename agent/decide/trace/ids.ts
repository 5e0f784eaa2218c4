// Ids of traces, spans and requests out of a given randomness: told apart, not secret.
import type { Random } from "../../base/random.ts";

const words = 0x1_0000_0000;
const word = (random: Random): string => (words + random.below(words)).toString(16).slice(1);

/** 32 digits, not all zeros. */
export const newTraceId = (random: Random): string => {
  const id = word(random) + word(random) + word(random) + word(random);
  return id === "00000000000000000000000000000000" ? "00000000000000000000000000000001" : id;
};
/** 16 digits, not all zeros. */
export const newSpanId = (random: Random): string => {
  const id = word(random) + word(random);
  return id === "0000000000000000" ? "0000000000000001" : id;
};
/** A UUID of version 4 (RFC 9562 §5.4). */
export function newRequestId(random: Random): string {
  const [a, b, c, d] = [word(random), word(random), word(random), word(random)];
  const variant = "89ab"[Number.parseInt(c[0] as string, 16) & 3];
  return `${a}-${b.slice(0, 4)}-4${b.slice(5)}-${variant}${c.slice(1, 4)}-${c.slice(4)}${d}`;
}
