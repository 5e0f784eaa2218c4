// The address plan of docs/lab.md: pure arithmetic from node and pod numbers to addresses. The same in every lab, since nothing leaves its namespaces.
export const CONTROLLER_IPS = ["10.250.0.1", "fd00:250::1"] as const;
export const CONTROLLER_PORT = 15012;
/** Host numbers for pods within a node's /24 and /64: .1 is the node, the first ones are kept for tests that want fixed addresses. */
export const POD_NUMBERS = { first: 10, last: 250 } as const;
export const MAX_NODES = 200;

/** Addresses of one family pair. */
export interface Pair {
  readonly v4: string;
  readonly v6: string;
}

export const nodeName = (number: number): string => `node${number}`;
/** "node3" -> 3; undefined for any other text. */
export function nodeNumber(name: string): number | undefined {
  const match = /^node([1-9][0-9]{0,2})$/.exec(name);
  return match === null ? undefined : Number(match[1]);
}

/** Router's end of the link to node N, and the node's end. */
export const linkRouter = (n: number): Pair => ({ v4: `10.250.${n}.1`, v6: `fd00:250:${n}::1` });
export const linkNode = (n: number): Pair => ({ v4: `10.250.${n}.2`, v6: `fd00:250:${n}::2` });
/** The node's own address inside its pod range: kubelet probes come from it. */
export const nodePodGateway = (n: number): Pair => ({ v4: `10.244.${n}.1`, v6: `fd00:244:${n}::1` });
export const podRange = (n: number): Pair => ({ v4: `10.244.${n}.0/24`, v6: `fd00:244:${n}::/64` });
export const podAddress = (n: number, host: number): Pair => ({
  v4: `10.244.${n}.${host}`,
  v6: `fd00:244:${n}::${host.toString(16)}`,
});

/** Gives out host numbers round robin, so that a new pod does not at once get the address of one that just went (as host-local IPAM does). */
export class PodNumbers {
  readonly #used = new Set<number>();
  #next: number = POD_NUMBERS.first;

  /** @returns undefined when the node's range is full, or the wanted number is taken. */
  take(wanted?: number): number | undefined {
    if (wanted !== undefined) {
      if (this.#used.has(wanted)) return undefined;
      this.#used.add(wanted);
      return wanted;
    }
    const size = POD_NUMBERS.last - POD_NUMBERS.first + 1;
    for (let tried = 0; tried < size; tried++) {
      const candidate = this.#next;
      this.#next = candidate === POD_NUMBERS.last ? POD_NUMBERS.first : candidate + 1;
      if (this.#used.has(candidate)) continue;
      this.#used.add(candidate);
      return candidate;
    }
    return undefined;
  }

  free(number: number): void {
    this.#used.delete(number);
  }
}
