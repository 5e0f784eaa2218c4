// A client whose protocol nobody knows yet: its first bytes are HTTP/2's preface, or it speaks HTTP/1.1 (RFC 9113 §3.4). They are then read as
// if nobody had looked.
import type { OnReadOpts, Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { preface } from "./http2/codes.ts";

export type HttpProtocol = "http1" | "http2";

/** What a server is spoken to in (DP-28): as its port is declared; where that says nothing, as the client speaks, for it was meant to. */
export function upstreamProtocol(declared: string, client: HttpProtocol): HttpProtocol {
  switch (declared) {
    case "http2":
    case "h2c":
    case "grpc":
      return "http2";
    case "http":
    case "grpc-web":
    case "ws":
      return "http1";
    default:
      return client;
  }
}

const firstBytes = 8 * 1024;

/** What these bytes say; undefined: too few of them. One byte decides for all methods but those that begin with "P". */
export function protocolOf(bytes: Uint8Array): HttpProtocol | undefined {
  const length = Math.min(bytes.length, preface.length);
  for (let i = 0; i < length; i++) if (bytes[i] !== preface[i]) return "http1";
  return length < preface.length ? undefined : "http2";
}

/** Takes a client over: reads from `open(onread)` as any connection does. */
export type TakeClient = (open: (onread: OnReadOpts) => Socket) => Client;
export interface Client {
  drain(): void;
}

export interface WaitLimits {
  /** Until the first byte. */
  readonly idleTimeoutMs: number;
  /** The same of a connection that is to end. */
  readonly drainIdleMs: number;
}

/** A connection whose first bytes decide who reads it. `gone`: it ended before they came. */
export class UnknownClient implements Client {
  private readonly buffer = Buffer.allocUnsafeSlow(firstBytes);
  private kept = 0;
  private reader: OnReadOpts | undefined;
  private client: Client | undefined;
  private readonly socket: Socket;
  private readonly takers: Readonly<Record<HttpProtocol, TakeClient>>;
  private readonly gone: () => void;
  private readonly clock: Pick<Clock, "after">;
  private readonly limits: WaitLimits;
  private cancel: () => void;
  private readonly ended = (): void => {
    this.release();
    this.socket.on("error", () => {});
    this.socket.destroy();
    this.gone();
  };

  constructor(
    open: (onread: OnReadOpts) => Socket,
    takers: Readonly<Record<HttpProtocol, TakeClient>>,
    gone: () => void,
    clock: Pick<Clock, "after">,
    limits: WaitLimits,
  ) {
    this.takers = takers;
    this.gone = gone;
    this.clock = clock;
    this.limits = limits;
    this.cancel = clock.after(limits.idleTimeoutMs, this.ended);
    // Node asks for the next buffer right after each callback, so the reader's own comes in without a gap.
    this.socket = open({ buffer: () => this.next(), callback: (count, into) => this.read(count, into) });
    this.socket.on("end", this.ended).on("error", this.ended).on("close", this.ended);
  }

  /** What has said nothing yet has nothing to lose. */
  drain(): void {
    if (this.client !== undefined) this.client.drain();
    else {
      this.cancel();
      this.cancel = this.clock.after(this.limits.drainIdleMs, this.ended);
    }
  }

  private release(): void {
    this.cancel();
    this.socket.off("end", this.ended).off("error", this.ended).off("close", this.ended);
  }

  private next(): Uint8Array {
    const { reader } = this;
    if (reader === undefined) return this.buffer.subarray(this.kept);
    return typeof reader.buffer === "function" ? reader.buffer() : reader.buffer;
  }

  private read(count: number, into: Uint8Array): boolean {
    if (this.reader !== undefined) return this.reader.callback(count, into);
    this.kept += count;
    const protocol = protocolOf(this.buffer.subarray(0, this.kept));
    if (protocol === undefined) return true;
    this.release();
    this.client = this.takers[protocol]((onread) => {
      this.reader = onread;
      return this.socket;
    });
    return this.replay();
  }

  /** What was read, in pieces of the reader's own buffers. */
  private replay(): boolean {
    let going = true;
    for (let at = 0; at < this.kept; ) {
      const into = this.next();
      const count = this.buffer.copy(into, 0, at, this.kept);
      at += count;
      going = (this.reader as OnReadOpts).callback(count, into);
    }
    return going;
  }
}
