// Requests that went over a limit: gathered by each data thread by policy, limit and client, told once a second, then counted and written as
// audit lines by the control thread. Bounded however many clients there are.
import type { PolicyName } from "../api/names.ts";
import type { Logger } from "../base/log.ts";
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import { metricNames } from "./metric-names.ts";

export interface LimitNote {
  readonly policy: PolicyName;
  readonly limit: string;
  readonly key: string;
  readonly dryRun: boolean;
  readonly overflow: boolean;
}
export interface LimitRow extends LimitNote {
  /** Pod that the requests were for. */
  readonly destination: string;
  readonly requests: number;
}
export interface LimitRows {
  /** Clients with the most requests. */
  readonly named: readonly LimitRow[];
  /** Of all others, by policy, limit and mode: their clients and requests. */
  readonly others: readonly (Omit<LimitRow, "key" | "destination"> & { readonly clients: number })[];
}

const mostKept = 1_000;
const mostNamed = 10;

/** What one thread has to tell. */
export class LimitNotes {
  #rows = new Map<string, { note: LimitNote; destination: string; requests: number }>();
  /** Beyond what is kept by client. */
  #beyond = new Map<string, { note: LimitNote; requests: number }>();

  add(note: LimitNote, destination: string): void {
    const kind = `${note.policy} ${note.limit} ${note.dryRun}`;
    const at = `${kind} ${note.key} ${destination}`;
    const row = this.#rows.get(at);
    if (row !== undefined) row.requests++;
    else if (this.#rows.size < mostKept) this.#rows.set(at, { note, destination, requests: 1 });
    else {
      const more = this.#beyond.get(kind);
      if (more === undefined) this.#beyond.set(kind, { note, requests: 1 });
      else more.requests++;
    }
  }

  /** What was added since the last call; undefined: nothing. */
  flush(): LimitRows | undefined {
    if (this.#rows.size === 0) return undefined;
    const rows = [...this.#rows.values()].sort((a, b) => b.requests - a.requests);
    const named = rows.slice(0, mostNamed).map(({ note, destination, requests }) => row(note, destination, requests));
    const others = new Map<string, { note: LimitNote; clients: number; requests: number }>();
    const add = (note: LimitNote, clients: number, requests: number): void => {
      const kind = `${note.policy} ${note.limit} ${note.dryRun}`;
      const sum = others.get(kind) ?? { note, clients: 0, requests: 0 };
      others.set(kind, { note: sum.note, clients: sum.clients + clients, requests: sum.requests + requests });
    };
    for (const { note, requests } of rows.slice(mostNamed)) add(note, 1, requests);
    // One client each, for all that is known of them.
    for (const { note, requests } of this.#beyond.values()) add(note, requests, requests);
    this.#rows = new Map();
    this.#beyond = new Map();
    return {
      named,
      others: [...others.values()].map(({ note, clients, requests }) => {
        const { key: _, destination: __, ...rest } = row(note, "", requests);
        return { ...rest, clients };
      }),
    };
  }
}

const row = ({ policy, limit, key, dryRun, overflow }: LimitNote, destination: string, requests: number): LimitRow => ({
  policy,
  limit,
  key,
  dryRun,
  overflow,
  destination,
  requests,
});

/** What all threads told, as metric and audit lines. */
export class RateLimitReport {
  readonly #log: Logger;
  readonly #limited: CounterMetric<"policy" | "limit" | "enforced">;

  constructor(metrics: Metrics, log: Logger) {
    this.#log = log;
    this.#limited = metrics.counter(metricNames.rateLimited);
  }

  take({ named, others }: LimitRows): void {
    for (const { overflow, ...fields } of named) {
      this.#count(fields);
      this.#log.warn("rate_limited", { ...fields, ...(overflow ? { shared: true } : {}) });
    }
    for (const { overflow: _, ...fields } of others) {
      this.#count(fields);
      this.#log.warn("rate_limited_others", fields);
    }
  }

  #count({ policy, limit, dryRun, requests }: Pick<LimitRow, "policy" | "limit" | "dryRun" | "requests">): void {
    this.#limited.add({ policy, limit, enforced: String(!dryRun) }, requests);
  }
}
