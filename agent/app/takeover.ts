// Two agents of one node, one after the other (docs/takeover.md): a unix socket in the run directory is both lock and line. The
// new agent claims, starts beside the old one, says when it is ready; only then does the old one drain and go.
import { linkSync, renameSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";

/** One JSON object a line, both ways. */
type Line =
  | { readonly say: "claim"; readonly pid: number; readonly version: string }
  | { readonly say: "granted"; readonly pid: number; readonly version: string }
  | { readonly say: "busy"; readonly pid: number }
  | { readonly say: "ready" }
  | { readonly say: "yielded" };

export interface TakeoverParts {
  readonly runDir: string;
  readonly pid: number;
  readonly version: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** How long an old agent may take to answer before it counts as hung. */
  readonly answerMs: number;
  /** The successor is ready: stop taking anything new, give up shared files. Resolves when that is done. */
  readonly yieldTo: (pid: number) => Promise<void>;
  /** A successor that had claimed has ended before it was ready: this agent goes on, whatever that one has changed. */
  readonly lost: (pid: number) => void;
}

export class Takeover {
  readonly #parts: TakeoverParts;
  readonly #path: string;
  readonly #own: string;
  #old: Socket | undefined;
  #oldPid = 0;
  #server: Server | undefined;
  #claimant: number | undefined;
  /** The name in place is another's by right or by its silence: it is moved over, not linked. */
  #replaces = false;

  constructor(parts: TakeoverParts) {
    this.#parts = parts;
    this.#path = join(parts.runDir, "takeover.sock");
    this.#own = `${this.#path}.${parts.pid}`;
  }

  /** Id of the agent that is being replaced, 0 for none. */
  get predecessor(): number {
    return this.#oldPid;
  }

  /**
   * Finds out whether an agent runs here already and claims its place. An error means that another new agent was faster. An old
   * agent that takes the connection and says nothing is hung: it is replaced without its help.
   */
  async claim(): Promise<Result<void, string>> {
    const socket = await this.#dial();
    if (socket === undefined) return ok(undefined);
    const { pid, version, clock, answerMs, log } = this.#parts;
    const answer = await this.#ask(socket, { say: "claim", pid, version }, clock, answerMs);
    if (answer?.say === "busy") {
      socket.destroy();
      return err(`agent ${answer.pid} is taking over already`);
    }
    if (answer?.say !== "granted") {
      log.warn("predecessor_silent", { afterMs: answerMs });
      this.#replaces = true;
      socket.destroy();
      return ok(undefined);
    }
    this.#old = socket;
    this.#oldPid = answer.pid;
    this.#replaces = true;
    log.info("taking_over", { from: answer.pid, version: answer.version });
    return ok(undefined);
  }

  /** This agent serves now: the old one yields, then this one listens for its own successor. */
  async serve(): Promise<Result<void, string>> {
    const { clock, answerMs, log } = this.#parts;
    if (this.#old !== undefined) {
      const answer = await this.#ask(this.#old, { say: "ready" }, clock, answerMs);
      if (answer?.say !== "yielded") log.warn("predecessor_did_not_yield", { predecessor: this.#oldPid });
      this.#old.destroy();
      this.#old = undefined;
    }
    const server = createServer((socket) => this.#answer(socket));
    this.#server = server;
    return new Promise((resolve) => {
      server.once("error", (error) => resolve(err(`takeover socket: ${error.message}`)));
      rmSync(this.#own, { force: true });
      // Bound under its own name and then moved into place: a name is never there without a listener behind it, and libuv, which
      // removes the name that it bound when the server closes, never removes a successor's.
      server.listen(this.#own, () => resolve(this.#publish()));
    });
  }

  close(): void {
    this.#old?.destroy();
    this.#server?.close();
    this.#server = undefined;
  }

  #publish(): Result<void, string> {
    try {
      if (!this.#replaces) {
        linkSync(this.#own, this.#path); // exclusive: of two first agents one loses here
        rmSync(this.#own, { force: true });
      } else renameSync(this.#own, this.#path);
      return ok(undefined);
    } catch (error) {
      this.close();
      return err(`takeover socket: another agent started at the same time (${(error as Error).message})`);
    }
  }

  /** A socket to a live agent; a name that a dead one left is removed. */
  #dial(): Promise<Socket | undefined> {
    return new Promise((resolve) => {
      const socket = connect(this.#path);
      socket.once("connect", () => resolve(socket));
      socket.once("error", (error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") rmSync(this.#path, { force: true });
        resolve(undefined);
      });
    });
  }

  #ask(socket: Socket, line: Line, clock: Clock, ms: number): Promise<Line | undefined> {
    return new Promise((resolve) => {
      const cancel = clock.after(ms, () => resolve(undefined));
      const done = (answer: Line | undefined): void => {
        cancel();
        resolve(answer);
      };
      readLines(socket, done);
      socket.once("close", () => done(undefined));
      socket.write(`${JSON.stringify(line)}\n`);
    });
  }

  #answer(socket: Socket): void {
    const { pid, version, log } = this.#parts;
    let claimed = false;
    let successorServes = false;
    const send = (line: Line): void => void socket.write(`${JSON.stringify(line)}\n`);
    socket.on("error", () => {});
    socket.on("close", () => {
      if (!claimed) return;
      const pid = this.#claimant ?? 0;
      this.#claimant = undefined; // it died or finished; the next may try
      if (successorServes || this.#server === undefined) return;
      log.warn("successor_lost", { successor: pid });
      this.#parts.lost(pid);
    });
    readLines(socket, (line) => {
      if (line.say === "claim") {
        if (this.#claimant !== undefined) return send({ say: "busy", pid: this.#claimant });
        this.#claimant = line.pid;
        claimed = true;
        log.info("successor_claims", { successor: line.pid, version: line.version });
        return send({ say: "granted", pid, version });
      }
      if (line.say !== "ready" || !claimed) return;
      successorServes = true;
      this.#parts.yieldTo(this.#claimant ?? 0).then(
        () => send({ say: "yielded" }),
        (error: unknown) => log.error("yield_failed", { error }),
      );
    });
  }
}

/** Bounded: a peer that sends no newline is cut off. */
function readLines(socket: Socket, take: (line: Line) => void): void {
  let text = "";
  socket.removeAllListeners("data");
  socket.on("error", () => {});
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (text.length > 4096) return void socket.destroy();
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      try {
        take(JSON.parse(line) as Line);
      } catch {
        socket.destroy();
      }
    }
  });
}
