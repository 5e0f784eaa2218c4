// What a data thread decided and found out by probes, as plain numbers: requests, endpoints that tries went to, probes. A request adds to
// fields of objects it has at hand; once a second the sums go to the control thread.

/** Upper bounds of the buckets of probes, seconds. */
export const probeBoundsS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5] as const;

/** Tries that went to endpoints of one pool. */
export interface PickRow {
  /** "namespace/service:port". */
  readonly pool: string;
  readonly algorithm: string;
  /** Endpoints that nothing spoke against, and others: used because too few were left, or by a session. */
  readonly healthy: number;
  readonly ill: number;
}
/** Sums since the last time. */
export interface Decided {
  readonly requests: number;
  readonly denied: number;
  /** Requests that had no way to a server. */
  readonly errors: number;
  readonly picks: readonly PickRow[];
  readonly goodProbes: number;
  readonly badProbes: number;
  /** As `probeBoundsS`, and one above them all. */
  readonly probes: readonly number[];
  readonly probeSeconds: number;
}

export class PickCount {
  readonly #pool: string;
  readonly #touched: PickCount[];
  algorithm = "";
  #healthy = 0;
  #ill = 0;

  constructor(pool: string, touched: PickCount[]) {
    this.#pool = pool;
    this.#touched = touched;
  }

  add(isHealthy: boolean): void {
    if (this.#healthy === 0 && this.#ill === 0) this.#touched.push(this);
    if (isHealthy) this.#healthy++;
    else this.#ill++;
  }

  take(): PickRow {
    const row = { pool: this.#pool, algorithm: this.algorithm, healthy: this.#healthy, ill: this.#ill };
    this.#healthy = this.#ill = 0;
    return row;
  }
}

/** Envoy's flags of requests that could not be sent to any server: no route, no endpoint, no connection, no room. */
const unrouted: ReadonlySet<string> = new Set(["NR", "UH", "LR", "UF", "UO"]);

export class DecisionCounts {
  readonly #touched: PickCount[] = [];
  #requests = 0;
  #denied = 0;
  #errors = 0;
  #good = 0;
  #bad = 0;
  #probes: number[] = noProbes();
  #probeSeconds = 0;

  /** A request has ended with these response flags, "-" for none. */
  request(flags: string): void {
    this.#requests++;
    if (flags === "-") return;
    if (flags === "UAEX") this.#denied++;
    else if (unrouted.has(flags.slice(0, 2))) this.#errors++;
  }

  /** Counts picks of one pool, as long as somebody has it. */
  picksOf(pool: string): PickCount {
    return new PickCount(pool, this.#touched);
  }

  probe(isGood: boolean, ms: number): void {
    if (isGood) this.#good++;
    else this.#bad++;
    const seconds = ms / 1000;
    let i = 0;
    while (i < probeBoundsS.length && seconds > (probeBoundsS[i] as number)) i++;
    this.#probes[i] = (this.#probes[i] as number) + 1;
    this.#probeSeconds += seconds;
  }

  /** What came since the last call; undefined: nothing. */
  flush(): Decided | undefined {
    if (this.#requests === 0 && this.#touched.length === 0 && this.#good + this.#bad === 0) return undefined;
    const decided: Decided = {
      requests: this.#requests,
      denied: this.#denied,
      errors: this.#errors,
      picks: this.#touched.map((count) => count.take()),
      goodProbes: this.#good,
      badProbes: this.#bad,
      probes: this.#probes,
      probeSeconds: this.#probeSeconds,
    };
    this.#touched.length = 0;
    this.#requests = this.#denied = this.#errors = this.#good = this.#bad = this.#probeSeconds = 0;
    this.#probes = noProbes();
    return decided;
  }
}

const noProbes = (): number[] => Array.from({ length: probeBoundsS.length + 1 }, () => 0);
