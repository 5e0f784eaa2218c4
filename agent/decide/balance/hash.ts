// Hashes for spreading, never for secrets: 32 bits, the same on every node and version. Pure.

/** FNV-1a over the characters, then mixed, since FNV alone leaves its upper bits poor for short texts. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix(hash);
}

/** The finalizer of MurmurHash3: every bit of the input moves every bit of the result with a chance of one half. */
export function mix(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** As a number in (0, 1). */
export const unit = (hash: number): number => (hash + 0.5) / 4_294_967_296;
