// Which endpoint a client's connections to a service stay with (`sessionAffinity: ClientIP`), for all threads of the process together
// (DP-25). The first time its address decides, so that nodes, threads and agents agree without being told; then the endpoint is kept
// until it cannot be used any more or the client was silent for as long as the service says.
import type { ServiceName } from "../api/names.ts";
import { SharedTable } from "../base/shared-table.ts";
import { addText, type TextHash } from "../base/text-hash.ts";
import { hashText, mix, unit } from "./balance/hash.ts";

/** Clients with a session at once, over all services. Beyond it a client's address alone decides, which moves some when endpoints come. */
const slots = 65_536;
// Of a slot: the endpoint's hash, when it was last used (seconds, plus 1: 0 is never), and after how many seconds it may be forgotten.
const own = 3;

/** A client as a service sees it. */
export interface Client {
  readonly service: ServiceName;
  readonly port: number;
  readonly ip: string;
}

/** A client that its service keeps with one endpoint. */
export interface Kept {
  readonly client: Client;
  readonly id: string;
  readonly timeoutS: number;
}

export class ClientSessions {
  readonly #table: SharedTable;
  readonly #hash: TextHash = { high: 0, low: 0 };

  static createMemory = (): SharedArrayBuffer => new SharedArrayBuffer(SharedTable.bytes(slots, own));

  /** `memory`: of createMemory, the same for all threads. */
  constructor(memory: SharedArrayBuffer) {
    this.#table = new SharedTable(memory, slots, own);
  }

  /** Index of the endpoint that the client is with, among `ids`; -1: none, or not any more. `nowS`: monotonic. */
  find(client: Client, ids: readonly string[], timeoutS: number, nowS: number): number {
    const { high, low } = this.#keyOf(client);
    const at = this.#table.find(high, low);
    if (at < 0) return -1;
    const { words } = this.#table;
    const seen = Atomics.load(words, at + 1);
    if (seen === 0 || nowS - (seen - 1) >= timeoutS) return -1;
    const endpoint = Atomics.load(words, at);
    return ids.findIndex((id) => (hashText(id) | 0) === endpoint);
  }

  /** The client is with `id` from now on. */
  keep({ client, id, timeoutS }: Kept, nowS: number): void {
    const { high, low } = this.#keyOf(client);
    const { words } = this.#table;
    const now = Math.floor(nowS);
    const at = this.#table.locate(high, low, (slot) => {
      const seen = Atomics.load(words, slot + 1);
      return seen !== 0 && now - (seen - 1) >= Atomics.load(words, slot + 2);
    });
    if (at < 0) return;
    Atomics.store(words, at, hashText(id) | 0);
    Atomics.store(words, at + 2, timeoutS);
    Atomics.store(words, at + 1, now + 1);
  }

  #keyOf({ service, port, ip }: Client): TextHash {
    const hash = this.#hash;
    // The same in every thread; nobody gains by a client that shares another's endpoint.
    hash.high = port;
    hash.low = ~port;
    addText(hash, service);
    addText(hash, ip);
    return hash;
  }
}

interface Bidder {
  readonly id: string;
  readonly weight: number;
}
/** Index of the endpoint that a client's address falls to: the highest bid for it, in proportion to weights; -1: there is none. */
export function byAddress(endpoints: readonly Bidder[], ip: string): number {
  const key = hashText(ip);
  let best = -1;
  let highest = -1;
  for (const [i, { id, weight }] of endpoints.entries()) {
    const bid = -weight / Math.log(unit(mix(hashText(id) ^ key)));
    if (weight > 0 && bid > highest) [best, highest] = [i, bid];
  }
  return best;
}
