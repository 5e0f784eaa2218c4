// Addresses for services whose manifest names none: a stable hash of the name, the next free one on collision. Pure.
import { formatIp, type IpBytes, parseCidr } from "../../agent/base/ip.ts";

export interface Pools {
  readonly v4: string;
  readonly v6: string;
}
export const defaultPools: Pools = { v4: "10.96.0.0/16", v6: "fd00:96::/112" };

/** FNV-1a over the text: the same in every process and version. */
export function stableHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash ^= text.charCodeAt(i);
    hash = Math.imul(hash, 0x01000193) >>> 0;
  }
  return hash >>> 0;
}

/** One address out of a pool of at most 2^16, not in `taken`; undefined when the pool is full. The first ten stay free for others. */
export function allocate(pool: string, name: string, taken: ReadonlySet<string>): string | undefined {
  const cidr = parseCidr(pool);
  if (cidr === undefined) return undefined;
  const size = 2 ** Math.min(16, 128 - cidr.prefix);
  const usable = size - 11;
  if (usable <= 0) return undefined;
  const start = stableHash(name) % usable;
  for (let step = 0; step < usable; step++) {
    const text = formatIp(offset(cidr.network, 10 + ((start + step) % usable)));
    if (!taken.has(text)) return text;
  }
  return undefined;
}

function offset(network: IpBytes, by: number): IpBytes {
  const out = new Uint8Array(network);
  let carry = by;
  for (let i = 15; i >= 0 && carry > 0; i--) {
    carry += out[i] ?? 0;
    out[i] = carry & 0xff;
    carry = carry >>> 8;
  }
  return out;
}
