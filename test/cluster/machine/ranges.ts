// Which addresses a cluster gets: one /16 of 10.0.0.0/8 that nothing else on the machine uses. Pure.

/** Second octets of the blocks that clusters may have: the lab's ranges (10.244, 10.250) and the services' (10.96) are not among them. */
const FIRST_BLOCK = 110;
const BLOCKS = 100;

/** The same in every cluster, since it is routed nowhere: only the nodes' own rules know it. */
export const SERVICE_RANGE = "10.96.0.0/16";
export const API_SERVICE = "10.96.0.1";
export const DNS_SERVICE = "10.96.0.10";

export interface Ranges {
  readonly block: number;
  /** Nodes, the control plane and the machine's own end. */
  readonly network: string;
  readonly controlPlane: string;
  readonly machine: string;
  /** All pods. */
  readonly pods: string;
}

export const ranges = (block: number): Ranges => ({
  block,
  network: `10.${block}.255.0/24`,
  controlPlane: `10.${block}.255.1`,
  machine: `10.${block}.255.254`,
  pods: `10.${block}.0.0/17`,
});

/** Address of node N, counted from 1. */
export const nodeAddress = (block: number, n: number): string => `10.${block}.255.${10 + n}`;
/** Pods of node N. */
export const nodePods = (block: number, n: number): string => `10.${block}.${n}.0/24`;
/** As many as have an address in the network, with room for those of the machine. */
export const MAX_NODES = 100;

/** Whether an address or range ("10.1.2.3", "10.0.0.0/8") has addresses of the block. A default route has not: it is for the rest. */
function overlaps(block: number, text: string): boolean {
  const [address = "", length = "32"] = text.split("/");
  const octets = address.split(".").map(Number);
  if (octets.length !== 4 || octets.some((o) => !Number.isInteger(o) || o < 0 || o > 255)) return false;
  const bits = Math.min(16, Number(length));
  if (bits === 0) return false;
  const top = (((octets[0] ?? 0) << 8) | (octets[1] ?? 0)) >>> (16 - bits);
  return top === ((10 << 8) | block) >>> (16 - bits);
}

/**
 * The first block that is free.
 * @param blocks those of other clusters
 * @param taken addresses and ranges in use on the machine, as `ip` prints them
 */
export function freeBlock(blocks: readonly number[], taken: readonly string[]): number | undefined {
  for (let block = FIRST_BLOCK; block < FIRST_BLOCK + BLOCKS; block++)
    if (!blocks.includes(block) && !taken.some((t) => overlaps(block, t))) return block;
  return undefined;
}
