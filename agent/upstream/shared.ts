// What data threads know together of endpoints and clusters (DP-25): made once by the control thread, seen by each thread, and put right by
// the control thread when one of them has died.
import { SharedSlots } from "../base/shared-slots.ts";
import { EndpointStats } from "../decide/balance/endpoint-stats.ts";
import type { SlotBook } from "../decide/balance/slots.ts";
import { ClientSessions } from "../decide/client-sessions.ts";
import { Breakers } from "../decide/resilience/breaker.ts";
import { OutlierCounts } from "../decide/resilience/outlier.ts";
import { RetryBudget } from "../decide/resilience/retry.ts";

/** Endpoints of which something is known, over all services and namespaces of clients; and clusters. */
export interface SharedSizes {
  readonly endpoints: number;
  readonly clusters: number;
}
const defaultSizes: SharedSizes = { endpoints: 65_536, clusters: 8_192 };

/** Can be posted to a thread. */
export interface SharedMemory extends SharedSizes {
  readonly threads: number;
  readonly endpointNames: SharedArrayBuffer;
  readonly stats: SharedArrayBuffer;
  readonly breakers: SharedArrayBuffer;
  readonly outliers: SharedArrayBuffer;
  readonly clusterNames: SharedArrayBuffer;
  readonly cells: SharedArrayBuffer;
  readonly clients: SharedArrayBuffer;
}

// Words of a cluster's cell: the turn of round robin, when endpoints were compared, the retry budget, then per thread requests and retries.
const budgetAt = 2;
const countsAt = budgetAt + RetryBudget.words;
const cellWords = (threads: number): number => countsAt + 2 * threads;

/** `threads`: numbers of threads are below it. `clients`: see ClientSessions, where somebody else needs it, too. */
export function createSharedMemory(
  threads: number,
  sizes: SharedSizes = defaultSizes,
  clients: SharedArrayBuffer = ClientSessions.createMemory(),
): SharedMemory {
  const { endpoints, clusters } = sizes;
  return {
    threads,
    endpoints,
    clusters,
    endpointNames: new SharedArrayBuffer(SharedSlots.bytesFor(endpoints)),
    stats: new SharedArrayBuffer(EndpointStats.bytesFor(endpoints, threads)),
    breakers: new SharedArrayBuffer(Breakers.bytesFor(endpoints)),
    outliers: new SharedArrayBuffer(OutlierCounts.bytesFor(endpoints)),
    clusterNames: new SharedArrayBuffer(SharedSlots.bytesFor(clusters)),
    cells: new SharedArrayBuffer(clusters * cellWords(threads) * 4),
    clients,
  };
}

/** A thread has ended, and no other has its number yet: what it had under way is over, what it held is free. */
export function forgetThread(memory: SharedMemory, thread: number): void {
  const { threads, endpoints, clusters } = memory;
  new EndpointStats(endpoints, { threads, memory: memory.stats }).forgetThread(thread);
  new OutlierCounts(endpoints, memory.outliers).repair();
  const cells = new Int32Array(memory.cells);
  for (let cluster = 0; cluster < clusters; cluster++) {
    const at = cluster * cellWords(threads) + countsAt;
    Atomics.store(cells, at + thread, 0);
    Atomics.store(cells, at + threads + thread, 0);
  }
  SharedSlots.forget(memory.endpointNames, thread);
  SharedSlots.forget(memory.clusterNames, thread);
}

/** What threads know together of one cluster. */
export class ClusterCell {
  readonly cursor: Int32Array;
  readonly swept: Int32Array;
  readonly budget: RetryBudget;
  readonly #counts: Int32Array;
  readonly #threads: number;
  readonly #thread: number;

  constructor(words: Int32Array, threads: number, thread: number) {
    this.cursor = words.subarray(0, 1);
    this.swept = words.subarray(1, 2);
    this.budget = new RetryBudget(words.subarray(budgetAt, countsAt));
    this.#counts = words.subarray(countsAt, countsAt + 2 * threads);
    this.#threads = threads;
    this.#thread = thread;
  }

  addRequests(more: number): void {
    Atomics.add(this.#counts, this.#thread, more);
  }
  addRetries(more: number): void {
    Atomics.add(this.#counts, this.#threads + this.#thread, more);
  }
  /** Under way on all threads. */
  get requests(): number {
    return this.#sum(0);
  }
  get retries(): number {
    return this.#sum(this.#threads);
  }
  #sum(from: number): number {
    let sum = 0;
    for (let thread = 0; thread < this.#threads; thread++) sum += this.#counts[from + thread] as number;
    return sum;
  }
}

/** The shared memory as one thread uses it. */
export class SharedUpstreams implements SlotBook {
  readonly stats: EndpointStats;
  readonly breakers: Breakers;
  readonly outliers: OutlierCounts;
  readonly clients: ClientSessions;
  readonly #threads: number;
  readonly #thread: number;
  readonly #endpoints: SharedSlots;
  readonly #clusters: SharedSlots;
  readonly #cells: Int32Array;
  #decayMs = 0;

  constructor(memory: SharedMemory, thread: number) {
    const { threads, endpoints, clusters } = memory;
    this.#threads = threads;
    this.#thread = thread;
    this.stats = new EndpointStats(endpoints, { threads, thread, memory: memory.stats });
    this.breakers = new Breakers(this.stats, memory.breakers);
    this.outliers = new OutlierCounts(endpoints, memory.outliers);
    this.clients = new ClientSessions(memory.clients);
    this.#cells = new Int32Array(memory.cells);
    this.#endpoints = new SharedSlots(endpoints, memory.endpointNames, thread, (slot) => {
      this.outliers.reset(slot);
      this.breakers.reset(slot);
      this.stats.reset(slot, this.#decayMs);
    });
    this.#clusters = new SharedSlots(clusters, memory.clusterNames, thread, (cluster) => {
      this.#cells.fill(0, cluster * cellWords(threads), (cluster + 1) * cellWords(threads));
    });
  }

  take(name: string, decayMs: number): number {
    this.#decayMs = decayMs;
    return this.#endpoints.take(name);
  }
  give(name: string): void {
    this.#endpoints.give(name);
  }

  /** The cell of a cluster; where there is no room, one that this thread has for itself. */
  takeCell(key: string): ClusterCell {
    const each = cellWords(this.#threads);
    const at = this.#clusters.take(key);
    const words = at < 0 ? new Int32Array(each) : this.#cells.subarray(at * each, (at + 1) * each);
    return new ClusterCell(words, this.#threads, this.#thread);
  }
  giveCell(key: string): void {
    this.#clusters.give(key);
  }
}
