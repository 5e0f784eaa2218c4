// Requests to the API server: JSON with deadlines, and watches line by line. Every failure is a value; nothing is tried again here.
import { type ClientRequest, type IncomingMessage, request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { ApiAccess } from "./access.ts";
import { type ApiFault, faultOf, faultOfAnswer } from "./fault.ts";
import { LineReader } from "./lines.ts";

export interface ApiRequest {
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** "/api/v1/pods" */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly accept?: string;
  readonly body?: unknown;
  readonly contentType?: string;
  readonly signal?: AbortSignal;
  /** The whole answer must be there by then; default 60 s. */
  readonly deadlineMs?: number;
}
export interface WatchRequest extends Pick<ApiRequest, "path" | "query" | "accept"> {
  readonly signal: AbortSignal;
  /** Without a byte for so long the watch counts as dead: whatever stands in between may have lost it. */
  readonly idleMs: number;
  /** False ends the watch. */
  readonly line: (text: string) => boolean;
  /** The server took the request: lines follow. */
  readonly opened?: () => void;
}
/** `closed`: the server ended it in order; `stopped`: we did, by the signal or by `line`. */
export type WatchEnd =
  | { readonly kind: "closed" | "stopped" | "idle" }
  | { readonly kind: "fault"; readonly fault: ApiFault };

export interface ApiClient {
  /** The answer's JSON. */
  send(request: ApiRequest): Promise<Result<unknown, ApiFault>>;
  watch(request: WatchRequest): Promise<WatchEnd>;
  close(): void;
}
export interface ClientLimits {
  /** Until the head of an answer is there. */
  readonly answerMs: number;
  /** Between two pieces of an answer's body. */
  readonly bodyIdleMs: number;
  readonly maxBodyBytes: number;
  /** An object has at most 1.5 MB in etcd, and somewhat more as JSON. */
  readonly maxLineBytes: number;
}
const defaultLimits: ClientLimits = {
  answerMs: 30_000,
  bodyIdleMs: 20_000,
  maxBodyBytes: 134_217_728,
  maxLineBytes: 16_777_216,
};
/** With the kernel's ten probes a second apart a peer that is gone is known after 25 s. */
const keepAliveMs = 15_000;
const maxErrorBytes = 65_536;

/** `userAgent` is what the server's audit log calls us. */
export function createApiClient(
  access: ApiAccess,
  clock: Clock,
  limits: ClientLimits = defaultLimits,
  userAgent = "fairlead-controller",
): ApiClient {
  const basePath = access.server.pathname.replace(/\/$/, "");
  const send = access.server.protocol === "https:" ? tlsRequest : plainRequest;

  /** Sends the head and body, waits for the answer's head. */
  const open = async (request: ApiRequest, ending: Ending): Promise<Result<IncomingMessage, ApiFault>> => {
    let options: Awaited<ReturnType<ApiAccess["options"]>>;
    try {
      options = await access.options();
    } catch (error) {
      return err(faultOf("credentials", `credentials cannot be had: ${messageOf(error)}`));
    }
    if (ending.fault !== undefined) return err(ending.fault);
    const body = request.body === undefined ? undefined : JSON.stringify(request.body);
    const query = new URLSearchParams(request.query).toString();
    let outgoing: ClientRequest;
    try {
      outgoing = send({
        ...options,
        host: access.server.hostname.replace(/^\[|\]$/g, ""),
        port: access.server.port || (access.server.protocol === "https:" ? 443 : 80),
        method: request.method ?? "GET",
        path: `${basePath}${request.path}${query === "" ? "" : `?${query}`}`,
        headers: {
          ...options.headers,
          accept: request.accept ?? "application/json",
          "user-agent": userAgent,
          ...(body === undefined
            ? {}
            : { "content-type": request.contentType ?? "application/json", "content-length": Buffer.byteLength(body) }),
        },
      });
    } catch (error) {
      // A header with a line break, for one: a token file of somebody else's making.
      return err(faultOf("credentials", `the request cannot be made: ${messageOf(error)}`));
    }
    return new Promise((resolve) => {
      const failed = (error: Error): void => resolve(err(ending.fault ?? faultOf("network", messageOf(error))));
      ending.onEnd(() => outgoing.destroy(new Error("ended")));
      outgoing.on("socket", (socket) => socket.setKeepAlive(true, keepAliveMs));
      outgoing.on("error", failed);
      outgoing.on("response", (response) => {
        outgoing.removeListener("error", failed);
        // What comes later is told by the response.
        outgoing.on("error", () => {});
        resolve(ok(response));
      });
      outgoing.end(body);
    });
  };

  /** A body whole, at most `max` bytes. */
  const read = async (response: IncomingMessage, max: number, ending: Ending): Promise<Result<string, ApiFault>> => {
    const chunks: Buffer[] = [];
    let length = 0;
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        ending.alive();
        length += chunk.length;
        if (length > max) return err(faultOf("too_large", `the answer is longer than ${max} bytes`));
        chunks.push(chunk);
      }
    } catch (error) {
      return err(ending.fault ?? faultOf("network", `the answer broke off: ${messageOf(error)}`));
    }
    return response.complete
      ? ok(Buffer.concat(chunks).toString("utf8"))
      : err(ending.fault ?? faultOf("network", "the answer broke off"));
  };
  const refusal = async (response: IncomingMessage, ending: Ending): Promise<ApiFault> => {
    const body = await read(response, maxErrorBytes, ending);
    const code = response.statusCode ?? 0;
    return faultOfAnswer(code, body.ok ? body.value : "", response.headers["retry-after"], clock.now());
  };
  const isFine = (response: IncomingMessage): boolean =>
    response.statusCode !== undefined && response.statusCode >= 200 && response.statusCode < 300;

  return {
    async send(request) {
      const ending = new Ending(clock, request.signal, request.deadlineMs ?? 60_000);
      try {
        ending.expect(limits.answerMs, "no answer");
        const opened = await open(request, ending);
        if (!opened.ok) return opened;
        ending.expect(limits.bodyIdleMs, "the answer stands still");
        if (!isFine(opened.value)) return err(await refusal(opened.value, ending));
        const body = await read(opened.value, limits.maxBodyBytes, ending);
        if (!body.ok) return body;
        try {
          return ok(JSON.parse(body.value) as unknown);
        } catch {
          return err(faultOf("garbage", "the answer is not JSON"));
        }
      } finally {
        ending.done();
      }
    },
    async watch(request) {
      const ending = new Ending(clock, request.signal);
      try {
        ending.expect(limits.answerMs, "no answer");
        const opened = await open(request, ending);
        if (!opened.ok) return endOf(opened.error);
        const response = opened.value;
        if (!isFine(response)) {
          ending.expect(limits.bodyIdleMs, "the answer stands still");
          return endOf(await refusal(response, ending));
        }
        request.opened?.();
        ending.expect(request.idleMs, idle);
        const lines = new LineReader(limits.maxLineBytes);
        try {
          for await (const chunk of response as AsyncIterable<Buffer>) {
            ending.alive();
            const pushed = lines.push(chunk, request.line);
            if (pushed === "stopped") return { kind: "stopped" };
            if (pushed === "too_long")
              return endOf(faultOf("garbage", `a line is longer than ${limits.maxLineBytes} bytes`));
          }
        } catch (error) {
          return endOf(ending.fault ?? faultOf("network", `the watch broke off: ${messageOf(error)}`));
        }
        const isWhole = response.complete && lines.pendingBytes === 0;
        return isWhole ? { kind: "closed" } : endOf(faultOf("network", "the watch broke off within a line"));
      } finally {
        ending.done();
      }
    },
    close: () => access.close(),
  };
}

const idle = "no byte of the watch";
function endOf(fault: ApiFault): WatchEnd {
  if (fault.kind === "aborted") return { kind: "stopped" };
  return fault.kind === "timeout" && fault.message.startsWith(idle) ? { kind: "idle" } : { kind: "fault", fault };
}

/** All the ways in which one exchange is ended by us; the first one counts, and says why. */
class Ending {
  readonly #clock: Clock;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = (): void => this.#end(faultOf("aborted", "given up by the caller"));
  #cancelDeadline: (() => void) | undefined;
  #cancelExpected: (() => void) | undefined;
  #destroy: (() => void) | undefined;
  #lastMs = 0;
  fault: ApiFault | undefined;

  constructor(clock: Clock, signal: AbortSignal | undefined, deadlineMs?: number) {
    this.#clock = clock;
    this.#signal = signal;
    if (signal?.aborted) this.#abort();
    else signal?.addEventListener("abort", this.#abort, { once: true });
    if (deadlineMs !== undefined)
      this.#cancelDeadline = clock.after(deadlineMs, () =>
        this.#end(faultOf("timeout", `the answer was not whole after ${deadlineMs} ms`)),
      );
  }
  /** Something must come within `ms`, and again after each `alive`. */
  expect(ms: number, what: string): void {
    this.#cancelExpected?.();
    this.#lastMs = this.#clock.monotonicMs();
    const look = (): void => {
      const leftMs = this.#lastMs + ms - this.#clock.monotonicMs();
      if (leftMs > 0) this.#cancelExpected = this.#clock.after(Math.ceil(leftMs), look);
      else this.#end(faultOf("timeout", `${what} for ${ms} ms`));
    };
    this.#cancelExpected = this.#clock.after(ms, look);
  }
  alive(): void {
    this.#lastMs = this.#clock.monotonicMs();
  }
  /** What to do to the exchange when it is ended; at once if it has been. */
  onEnd(destroy: () => void): void {
    this.#destroy = destroy;
    if (this.fault !== undefined) destroy();
  }
  /** The exchange is over; whatever is left of it is closed. */
  done(): void {
    this.#cancelDeadline?.();
    this.#cancelExpected?.();
    this.#signal?.removeEventListener("abort", this.#abort);
  }
  #end(fault: ApiFault): void {
    if (this.fault !== undefined) return;
    this.fault = fault;
    this.#destroy?.();
  }
}
