// One connection of the traffic client: a whole conversation checked byte by byte, or an idle one that proves itself whenever asked.
import { createHash } from "node:crypto";
import { connect, type Socket } from "node:net";
import { Checker, encodeHead, type Head, Keystream, sendAll } from "./traffic-wire.ts";

export interface Target {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** Pause between head and data: keeps a connection open that long. */
  readonly holdMs: number;
}

export type Attempt =
  | { readonly ok: true; readonly totalMs: number; readonly bytes: number }
  | { readonly ok: false; readonly reason: string };

/** Holds the conversation that `head` names. Never rejects; a failure carries a short stable reason. */
export function attempt(target: Target, head: Head): Promise<Attempt> {
  return new Promise((resolve) => {
    const started = performance.now();
    const socket = connect({ host: target.host, port: target.port, allowHalfOpen: true, noDelay: true });
    const checker = new Checker(head.seed, "down", head.down);
    let connected = false;
    let done = false;
    let sending: Promise<void> | undefined;
    const finish = (a: Attempt): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      socket.destroy();
      resolve(a);
    };
    const timer = setTimeout(
      () =>
        finish({
          ok: false,
          reason: !connected
            ? "connect timeout"
            : checker.whole
              ? "timeout waiting for the end"
              : "timeout waiting for data",
        }),
      target.timeoutMs,
    );
    const complete = (): void => {
      if (!checker.whole) finish({ ok: false, reason: `${head.order}: received ${checker.fault}` });
      else finish({ ok: true, totalMs: performance.now() - started, bytes: head.up + head.down });
    };
    const send = (end: boolean): Promise<void> => {
      sending ??= sendAll(socket, head.seed, "up", head.up, end);
      return sending;
    };
    socket.on("error", (e: NodeJS.ErrnoException) =>
      finish({ ok: false, reason: `${connected ? "" : "connect "}${e.code ?? e.message}` }),
    );
    socket.on("connect", () => {
      connected = true;
      socket.write(encodeHead(head));
      const begin = (): void => {
        if (head.order === "request") void send(false);
        else if (head.order !== "server-fin") void send(true);
        if (head.order === "request" && head.down === 0) void send(false).then(() => socket.end());
      };
      if (target.holdMs > 0) setTimeout(begin, target.holdMs);
      else begin();
    });
    socket.on("data", (chunk: Buffer) => {
      checker.take(chunk);
      if (head.order === "request" && checker.received >= head.down) socket.end();
    });
    socket.on("end", () => {
      if (head.order === "server-fin") {
        // The server has finished; now it is our turn, and its close after our FIN ends it.
        void send(true).then(() => socket.once("finish", complete));
      } else if (head.order === "both" && !socket.writableFinished) {
        // Our own half may still be on its way: it is as much part of the conversation as theirs.
        socket.once("finish", complete);
      } else complete();
    });
    socket.on("close", () => finish({ ok: false, reason: "closed early" }));
  });
}

/** The server's own counts, over a connection of its own. */
export function serverStats(target: Target): Promise<unknown> {
  return new Promise((resolve) => {
    const socket = connect({ host: target.host, port: target.port });
    let text = "";
    socket.on("connect", () => socket.write(encodeHead({ order: "stats", seed: 0, up: 0, down: 0 })));
    socket.on("data", (b: Buffer) => {
      text += b.toString();
    });
    socket.on("error", (e) => resolve({ error: e.message }));
    socket.on("close", () => {
      clearTimeout(timer);
      try {
        resolve(JSON.parse(text));
      } catch {
        resolve({ error: "no stats" });
      }
    });
    const timer = setTimeout(() => socket.destroy(), target.timeoutMs);
  });
}

/** A connection that stays open; each proof sends 32 fresh bytes and expects the hash over all that were ever sent. */
export class Idle {
  readonly #socket: Socket;
  readonly #bytes: Keystream;
  readonly #timeoutMs: number;
  #chain = Buffer.alloc(32);
  #dead = "";
  #waiting: ((answer: Buffer) => void) | undefined;
  #pending = Buffer.alloc(0);

  private constructor(socket: Socket, seed: number, timeoutMs: number) {
    this.#socket = socket;
    this.#bytes = new Keystream(seed, "up");
    this.#timeoutMs = timeoutMs;
    socket.on("error", (e: NodeJS.ErrnoException) => {
      this.#dead ||= e.code ?? e.message;
    });
    socket.on("close", () => {
      this.#dead ||= "closed";
      this.#waiting?.(Buffer.alloc(0));
    });
    socket.on("data", (chunk: Buffer) => {
      this.#pending = Buffer.concat([this.#pending, chunk]);
      if (this.#pending.length < 32) return;
      const answer = this.#pending.subarray(0, 32);
      this.#pending = this.#pending.subarray(32);
      this.#waiting?.(answer);
    });
  }

  /** @returns undefined if it could not be opened or its first proof failed. */
  static async open(target: Target, seed: number): Promise<Idle | undefined> {
    const socket = connect({ host: target.host, port: target.port, noDelay: true });
    const connected = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
    });
    if (!connected) return undefined;
    const idle = new Idle(socket, seed, target.timeoutMs);
    socket.write(encodeHead({ order: "idle", seed, up: 0, down: 0 }));
    return (await idle.prove()) === "ok" ? idle : undefined;
  }

  async prove(): Promise<string> {
    if (this.#dead !== "") return this.#dead;
    const round = this.#bytes.next(32);
    this.#chain = createHash("sha256").update(this.#chain).update(round).digest();
    const answer = await new Promise<Buffer | undefined>((resolve) => {
      const timer = setTimeout(() => resolve(undefined), this.#timeoutMs);
      this.#waiting = (a) => {
        clearTimeout(timer);
        resolve(a);
      };
      this.#socket.write(round);
    });
    this.#waiting = undefined;
    if (answer === undefined) return "no answer";
    if (answer.length === 0) return this.#dead;
    return answer.equals(this.#chain) ? "ok" : "wrong hash";
  }

  close(): void {
    this.#socket.destroy();
  }
}
