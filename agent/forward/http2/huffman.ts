// Huffman code of HPACK (RFC 7541 §5.2, appendix B). The code is canonical, so the lengths alone give it; decoding goes by half
// bytes through a table of 256 states.

// biome-ignore format: one number a symbol, 0 to 256 (EOS)
const lengths = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
  30,
];
const eos = 256;

/** Bits and length of each symbol's code; bits are right-aligned. */
export const codeBits = new Uint32Array(257);
export const codeLength = Uint8Array.from(lengths);

const emits = 1 << 16;
const fails = 1 << 17;
/** In this state the input may end: what was read of a code is at most 7 bits of EOS (§5.2). */
const mayEnd = 1 << 18;
/** [state * 16 + half byte] -> next state | symbol << 8 | flags. */
const steps = new Uint32Array(256 * 16);

function build(): void {
  const order = Array.from({ length: 257 }, (_, symbol) => symbol).sort(
    (a, b) => (codeLength[a] ?? 0) - (codeLength[b] ?? 0) || a - b,
  );
  let code = 0;
  let before = codeLength[order[0] ?? 0] ?? 0;
  for (const symbol of order) {
    const length = codeLength[symbol] ?? 0;
    code *= 2 ** (length - before);
    before = length;
    codeBits[symbol] = code++;
  }
  // Inner nodes are states, in the order in which they are made; a leaf is -1 - symbol.
  const children: [number, number][] = [[0, 0]];
  for (let symbol = 0; symbol <= eos; symbol++) {
    const length = codeLength[symbol] ?? 0;
    let node = 0;
    for (let bit = length - 1; bit >= 0; bit--) {
      const side = ((codeBits[symbol] ?? 0) >>> bit) & 1 ? 1 : 0;
      const pair = children[node] ?? [0, 0];
      if (bit === 0) pair[side] = -1 - symbol;
      else {
        if (pair[side] === 0) pair[side] = children.push([0, 0]) - 1;
        node = pair[side];
      }
    }
  }
  const endings = new Set<number>();
  for (let node = 0, depth = 0; depth < 8; depth++) {
    endings.add(node);
    node = children[node]?.[1] ?? 0;
  }
  for (let state = 0; state < children.length; state++) {
    for (let half = 0; half < 16; half++) {
      let node = state;
      let step = 0;
      for (let bit = 3; bit >= 0; bit--) {
        const next = children[node]?.[(half >> bit) & 1 ? 1 : 0] ?? 0;
        if (next >= 0) node = next;
        else {
          // Codes have 5 bits or more, so half a byte ends one at most.
          step |= -1 - next === eos ? fails : emits | ((-1 - next) << 8);
          node = 0;
        }
      }
      steps[state * 16 + half] = step | node | (endings.has(node) ? mayEnd : 0);
    }
  }
}
build();

/**
 * Decodes bytes `at` to `end` of `from` into `to` from its beginning, and returns how many came out, or -1 where the code is broken: EOS
 * in it, or padding that is longer than 7 bits or not of ones. `to` has room for 8/5 of the input.
 */
export function huffmanDecode(from: Uint8Array, at: number, end: number, to: Uint8Array): number {
  let state = 0;
  let out = 0;
  let last = mayEnd;
  for (let i = at; i < end; i++) {
    const byte = from[i] as number;
    const high = steps[state * 16 + (byte >> 4)] as number;
    if ((high & emits) !== 0) to[out++] = (high >> 8) & 0xff;
    const low = steps[(high & 0xff) * 16 + (byte & 15)] as number;
    if ((low & emits) !== 0) to[out++] = (low >> 8) & 0xff;
    if (((high | low) & fails) !== 0) return -1;
    state = low & 0xff;
    last = low;
  }
  return (last & mayEnd) === 0 ? -1 : out;
}

/** Bytes that `text` (latin1) takes in this code. */
export function huffmanLength(text: string): number {
  let bits = 0;
  for (let i = 0; i < text.length; i++) bits += codeLength[text.charCodeAt(i) & 0xff] as number;
  return (bits + 7) >> 3;
}

/** Writes `text` (latin1) at `at` and returns the place after it. */
export function huffmanEncode(text: string, to: Uint8Array, at: number): number {
  let held = 0;
  let bits = 0;
  for (let i = 0; i < text.length; i++) {
    const symbol = text.charCodeAt(i) & 0xff;
    let left = codeLength[symbol] as number;
    const code = codeBits[symbol] as number;
    while (left > 0) {
      const take = Math.min(8 - bits, left);
      left -= take;
      held = (held << take) | ((code >>> left) & ((1 << take) - 1));
      bits += take;
      if (bits === 8) {
        to[at++] = held;
        held = 0;
        bits = 0;
      }
    }
  }
  if (bits > 0) to[at++] = (held << (8 - bits)) | ((1 << (8 - bits)) - 1);
  return at;
}
