// The socket that the CNI plugin asks at: one question and one answer a connection, few at a time, each bounded in length and time,
// counted and logged. What a question means is the caller's (agent/app/cni.ts).
import { chmodSync, renameSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import { type CniAnswer, type CniRequest, encodeAnswer, messageSize, parseRequest } from "./protocol.ts";

export interface CniServerParts {
  readonly clock: Clock;
  readonly log: Logger;
  /** Questions answered at a time; further ones wait in the socket's queue. */
  readonly maxConnections: number;
  /** A question that is not answered after this is answered with a failure that the runtime tries again, ms. */
  readonly answerMs: number;
  /** `signal` aborts when nobody waits for the answer any more. */
  readonly answer: (request: CniRequest, signal: AbortSignal) => Promise<CniAnswer>;
  /** Each question once: `command` is "malformed" for one that could not be read. */
  readonly done: (command: string, outcome: string, seconds: number) => void;
}
/** A plugin writes its question at once; whoever does not is none, ms. */
const questionMs = 5_000;

export class CniServer {
  readonly #parts: CniServerParts;
  #server: Server | undefined;
  readonly #open = new Set<Socket>();

  constructor(parts: CniServerParts) {
    this.#parts = parts;
  }

  /** Takes `path` over from whoever has it: it always answers. The error names the path. */
  async listen(path: string): Promise<Result<void, string>> {
    const own = `${path}.${process.pid}`;
    const server = createServer((socket) => this.#serve(socket));
    server.maxConnections = this.#parts.maxConnections;
    server.on("drop", () => this.#parts.done("dropped", "busy", 0));
    this.#server = server;
    return new Promise((resolve) => {
      server.once("error", (error) => resolve(err(`${path}: ${error.message}`)));
      rmSync(own, { force: true });
      server.listen(own, () => {
        try {
          chmodSync(own, 0o600);
          renameSync(own, path);
          resolve(ok(undefined));
        } catch (error) {
          resolve(err(`${path}: ${messageOf(error)}`));
        }
      });
    });
  }

  /** Questions that are being answered end first, `ms` at most. The path stays: it may be a successor's by now. */
  async close(ms: number): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const ended = new AbortController();
    server.close(() => ended.abort());
    await this.#parts.clock.sleep(ms, ended.signal);
    for (const socket of this.#open) socket.destroy();
  }

  #serve(socket: Socket): void {
    const { clock, log, done } = this.#parts;
    const startedMs = clock.monotonicMs();
    const gone = new AbortController();
    let cancel = clock.after(questionMs, () => refuse("no question within its time"));
    let bytes = Buffer.alloc(0);
    let isAsked = false;
    this.#open.add(socket);
    const seconds = (): number => (clock.monotonicMs() - startedMs) / 1000;
    const reply = (answer: CniAnswer): void => void socket.end(encodeAnswer(answer));
    const refuse = (problem: string): void => {
      if (isAsked) return;
      isAsked = true;
      cancel();
      log.warn("cni_question_refused", { problem });
      done("malformed", "refused", seconds());
      reply({ outcome: "failed", code: "bad_question", message: `the agent cannot read: ${problem}`, retry: false });
    };
    socket.on("error", () => {});
    socket.on("end", () => refuse("the question ends in its middle"));
    socket.on("close", () => {
      cancel();
      gone.abort();
      this.#open.delete(socket);
    });
    socket.on("data", (chunk: Buffer) => {
      if (isAsked) return;
      bytes = Buffer.concat([bytes, chunk]);
      if (bytes.length < 4) return;
      const size = messageSize(bytes);
      if (!size.ok) return refuse(size.error);
      if (bytes.length < 4 + size.value) return;
      if (bytes.length > 4 + size.value) return refuse("bytes after the question");
      const request = parseRequest(bytes.toString("utf8", 4));
      if (!request.ok) return refuse(request.error);
      isAsked = true;
      cancel();
      const late = new AbortController();
      cancel = clock.after(this.#parts.answerMs, () => late.abort());
      void this.#answer(request.value, late.signal, gone.signal).then((answer) => {
        cancel();
        done(request.value.command, answer.outcome === "ok" ? "ok" : answer.code, seconds());
        this.#tell(request.value, answer, seconds());
        reply(answer);
      });
    });
  }

  async #answer(request: CniRequest, late: AbortSignal, gone: AbortSignal): Promise<CniAnswer> {
    const ended = new Promise<CniAnswer>((resolve) => {
      const end = (signal: AbortSignal, code: string, message: string): void =>
        signal.addEventListener("abort", () => resolve({ outcome: "failed", code, message, retry: true }));
      end(late, "late", `the agent on this node has no answer after ${this.#parts.answerMs} ms`);
      end(gone, "gone", "the plugin has not waited for the answer");
    });
    const signal = AbortSignal.any([late, gone]);
    const answered = this.#parts.answer(request, signal).catch((error: unknown): CniAnswer => {
      this.#parts.log.error("cni_question_threw", { error });
      return { outcome: "failed", code: "bug", message: `a bug of the agent: ${messageOf(error)}`, retry: true };
    });
    return Promise.race([ended, answered]);
  }

  #tell(request: CniRequest, answer: CniAnswer, seconds: number): void {
    const pod = request.command === "gc" ? {} : { pod: `${request.pod.namespace}/${request.pod.name}` };
    const fields = { command: request.command, ...pod, ms: Math.round(seconds * 1000), ...answer };
    if (answer.outcome === "ok") this.#parts.log.info("cni", fields);
    else this.#parts.log.warn("cni", fields);
  }
}
