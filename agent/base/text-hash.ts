// A keyed 64-bit hash of text for tables of numbers. The seed is drawn when the process starts, so that nobody outside can look for keys
// that collide. Not for secrets or signatures.

export interface TextHash {
  high: number;
  low: number;
}

/** A start for `addText`: one per process, from two random 32-bit numbers. */
export const seededHash = (high: number, low: number): TextHash => ({ high: high | 0, low: low | 0 });

/** Adds text to `hash`, in place. Parts are kept apart: "ab" + "c" is not "a" + "bc". */
export function addText(hash: TextHash, text: string): void {
  let { high, low } = hash;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    high = Math.imul(high ^ code, 0x85ebca77);
    low = Math.imul(low ^ code, 0xc2b2ae3d);
    high ^= high >>> 13;
    low ^= low >>> 15;
    high = (high + low) | 0;
  }
  // The length ends the part.
  high = Math.imul(high ^ (text.length + 0x9e3779b1), 0x27d4eb2f);
  low = Math.imul(low ^ (text.length + 0x165667b1), 0x85ebca6b);
  hash.high = (high ^ (high >>> 16) ^ low) | 0;
  hash.low = (low ^ (low >>> 13) ^ (hash.high << 5)) | 0;
}

/** Eight hex digits that stand for a text in a log line without showing it. */
export const shownHash = (hash: TextHash): string => (hash.high >>> 0).toString(16).padStart(8, "0");
