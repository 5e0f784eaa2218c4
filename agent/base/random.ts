// Randomness as an argument: for jitter and picking, never for keys (those come from node:crypto where they are made).

export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, below). */
  below(below: number): number;
}

const fromNext = (next: () => number): Random => ({ next, below: (below) => Math.floor(next() * below) });

export const systemRandom: Random = fromNext(Math.random);

/** mulberry32: small, repeatable, good enough to spread load in a simulation. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return fromNext(() => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  });
}
