// Replicas that elect one of them, each with a clock of its own, so that a day of theirs takes no time; the API server may be any.
import { silentLogger } from "../../agent/base/log.ts";
import { seededRandom } from "../../agent/base/random.ts";
import type { ApiAccess } from "../../agent/kubernetes/access.ts";
import { type ApiClient, createApiClient } from "../../agent/kubernetes/client.ts";
import { Election, type ElectionOptions } from "../../controller/lease/election.ts";
import { createFakeClock, type FakeClock } from "./fake-clock.ts";

export const stepMs = 500;

/** One replica with a clock of its own, which may stand still while others go on. */
export class Replica {
  readonly name: string;
  readonly clock: FakeClock = createFakeClock();
  readonly election: Election;
  readonly changes: string[] = [];
  readonly #api: ApiClient;
  #pending = 0;
  isPaused = false;
  isDead = false;
  /** What becomes of its requests. */
  mishap: "lost" | "unheard" | "late" | undefined;
  /** Time that has passed without any timer having run yet. */
  skippedMs = 0;

  constructor(access: ApiAccess, name: string, options: Partial<ElectionOptions> = {}) {
    this.name = name;
    const api = createApiClient(access, this.clock);
    this.#api = {
      ...api,
      send: async (request) => {
        this.#pending += 1;
        try {
          // Dead processes ask nobody; a lost request does not arrive, an unheard one is carried out without an answer.
          if (this.isDead || this.mishap === "lost") return { ok: false, error: { kind: "network", message: "lost" } };
          const answer = await api.send(request);
          if (this.mishap === "late") this.skippedMs += 8_000;
          return this.mishap === "unheard" ? { ok: false, error: { kind: "timeout", message: "no answer" } } : answer;
        } finally {
          this.#pending -= 1;
        }
      },
    };
    const changed = (what: string): void => void this.changes.push(what);
    this.election = new Election(
      {
        namespace: "mesh",
        name: "controller",
        identity: name,
        durationMs: 10_000,
        renewMs: 7_000,
        retryMs: 2_000,
        ...options,
      },
      {
        api: this.#api,
        clock: { ...this.clock, monotonicMs: () => this.clock.monotonicMs() + this.skippedMs },
        random: seededRandom(name.charCodeAt(0)),
        log: silentLogger,
        meter: { leading: () => {}, changed, failed: () => {} },
      },
    );
    this.election.start();
  }
  /** Lets time pass. For a process that was stopped it has passed as well, though none of its timers has run. */
  async pass(ms: number): Promise<void> {
    if (this.isPaused) {
      this.skippedMs += ms;
      return;
    }
    await this.clock.advanceAsync(ms);
    await this.settled();
  }
  async settled(): Promise<void> {
    for (;;) {
      // Answers come within milliseconds, so nothing is slept through in between.
      while (this.#pending > 0) await new Promise((resolve) => setImmediate(resolve));
      await this.clock.advanceAsync(0);
      if (this.#pending === 0) return;
    }
  }
  /** As it would find when it asks before a write: a process that stands still writes nothing. */
  get writes(): boolean {
    return !this.isPaused && !this.isDead && this.election.isLeading;
  }
  async stop(): Promise<void> {
    const stopped = this.election.stop();
    let isStopped = false;
    void stopped.then(() => {
      isStopped = true;
    });
    while (!isStopped) {
      await this.clock.advanceAsync(10);
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#api.close();
  }
}
export async function pass(replicas: readonly Replica[], ms: number, check: () => void = () => {}): Promise<void> {
  for (let passed = 0; passed < ms; passed += stepMs) {
    for (const replica of replicas) {
      await replica.pass(stepMs);
      check();
    }
  }
}
export const leaders = (replicas: readonly Replica[]): readonly string[] =>
  replicas.filter((replica) => replica.writes).map((replica) => replica.name);
