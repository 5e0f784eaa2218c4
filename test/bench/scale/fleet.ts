// Many played agents in a few processes, as one thing: start them, await what all of them have seen, count their bytes.
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { FromAgents, Joining, ToAgents } from "./agents.ts";

const program = fileURLToPath(new URL("agents.ts", import.meta.url));
/** A machine that is busy with other things takes long for 200 agents' first state. */
const patienceMs = 900_000;
/** One change that is not seen for so long is lost, or the machine is too small for the size. */
const changePatienceMs = 60_000;

export class Fleet {
  readonly #children: readonly ChildProcess[];
  readonly #waiting = new Map<string, Waiting>();
  #synced: { left: number; lastMs: number; resources: number; readonly resolve: (synced: Synced) => void } | undefined;
  #counted: { left: number; bytes: number; responses: number; readonly resolve: (counts: Counts) => void } | undefined;
  #failed: (error: Error) => void = () => {};
  readonly failure: Promise<never>;

  constructor(processes: number) {
    this.failure = new Promise((_, reject) => {
      this.#failed = reject;
    });
    this.failure.catch(() => {});
    this.#children = Array.from({ length: processes }, () => {
      const child = fork(program, { execArgv: ["--disable-warning=ExperimentalWarning"] });
      child.on("message", (message: FromAgents) => this.#take(message));
      child.on("exit", (code) => this.#failed(new Error(`a process of agents ended with ${code}`)));
      return child;
    });
  }

  /** Resolves when every agent has a whole state. */
  start(addresses: readonly string[], rootsPem: string, joining: readonly Joining[]): Promise<Synced> {
    const synced = this.#awaitState();
    const n = this.#children.length;
    for (const [i, child] of this.#children.entries())
      send(child, { say: "start", addresses, rootsPem, agents: joining.filter((_, j) => j % n === i) });
    return this.#orFail(synced);
  }
  /**
   * Resolves when every process looks out for `key`: a change that is made before may reach agents first. `seen` resolves with the shared
   * clock's time at which the last agent saw it.
   */
  async expect(key: string): Promise<{ readonly seen: Promise<number> }> {
    const n = this.#children.length;
    const expecting = Promise.withResolvers<void>();
    const seen = Promise.withResolvers<number>();
    const waiting = { expecting: n, left: n, lastMs: 0, isExpected: expecting.resolve, isSeen: seen.resolve };
    this.#waiting.set(key, waiting);
    for (const child of this.#children) send(child, { say: "expect", key });
    await this.#orFail(expecting.promise, `processes of agents to look out for "${key}"`, changePatienceMs);
    const all = this.#orFail(seen.promise, `all agents to see "${key}"`, changePatienceMs);
    all.catch(() => {});
    return { seen: all };
  }
  /** Resolves when every agent has a whole state on a stream that is answered from now on. */
  expectState(): Promise<Synced> {
    const synced = this.#awaitState();
    for (const child of this.#children) send(child, { say: "expect state" });
    return this.#orFail(synced);
  }
  count(): Promise<Counts> {
    const counted = new Promise<Counts>((resolve) => {
      this.#counted = { left: this.#children.length, bytes: 0, responses: 0, resolve };
    });
    for (const child of this.#children) send(child, { say: "count" });
    return this.#orFail(counted);
  }
  get pids(): readonly number[] {
    return this.#children.flatMap(({ pid }) => pid ?? []);
  }
  close(): void {
    for (const child of this.#children) {
      child.removeAllListeners("exit");
      child.kill("SIGKILL");
    }
  }

  #awaitState(): Promise<Synced> {
    return new Promise((resolve) => {
      this.#synced = { left: this.#children.length, lastMs: 0, resources: 0, resolve };
    });
  }
  async #orFail<T>(wanted: Promise<T>, what = "the agents", atMostMs = patienceMs): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`waited ${atMostMs / 1000} s for ${what}`)), atMostMs);
    });
    try {
      return await Promise.race([wanted, this.failure, late]);
    } finally {
      clearTimeout(timer);
    }
  }
  #take(message: FromAgents): void {
    if (message.say === "failed") this.#failed(new Error(`agents: ${message.why}`));
    if (message.say === "expecting") {
      const waiting = this.#waiting.get(message.key);
      if (waiting !== undefined && --waiting.expecting === 0) waiting.isExpected();
    }
    if (message.say === "seen") {
      const waiting = this.#waiting.get(message.key);
      if (waiting === undefined) return;
      waiting.lastMs = Math.max(waiting.lastMs, message.atMs);
      if (--waiting.left > 0) return;
      this.#waiting.delete(message.key);
      waiting.isSeen(waiting.lastMs);
    }
    if (message.say === "synced" && this.#synced !== undefined) {
      const synced = this.#synced;
      synced.lastMs = Math.max(synced.lastMs, message.atMs);
      synced.resources = message.lastResources;
      if (--synced.left === 0) synced.resolve({ atMs: synced.lastMs, resources: synced.resources });
    }
    if (message.say === "counted" && this.#counted !== undefined) {
      const counted = this.#counted;
      counted.bytes += message.bytes;
      counted.responses += message.responses;
      if (--counted.left === 0) counted.resolve({ bytes: counted.bytes, responses: counted.responses });
    }
  }
}
interface Waiting {
  /** Processes that have not said yet that they look out. */
  expecting: number;
  /** Processes with agents that have not seen it. */
  left: number;
  lastMs: number;
  readonly isExpected: () => void;
  readonly isSeen: (atMs: number) => void;
}
export interface Synced {
  readonly atMs: number;
  /** Workloads that an agent knows. */
  readonly resources: number;
}
export interface Counts {
  readonly bytes: number;
  readonly responses: number;
}

/** One that has just ended is told of by its exit. */
const send = (child: ChildProcess, message: ToAgents): void => void child.send(message, () => {});
