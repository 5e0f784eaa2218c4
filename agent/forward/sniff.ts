// A client whose protocol nobody knows yet, though its port is declared to be HTTP: it may have opened its connection ahead of any request.
// It is waited for, and its first bytes are then read as if nobody had looked.
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
/** A longer token is no method that anybody uses. */
const longestMethod = 20;
/** Of a line's end that is looked at for a version, with what a bad one puts behind it. */
const longestVersion = 16;
const tokenBytes = new Set(
  Buffer.from("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
);
const lf = 0x0a;
const cr = 0x0d;
const space = 0x20;
const del = 0x7f;

/**
 * What these bytes say, as native judges them where it sees them first (native/src/detect): HTTP/2's preface (RFC 9113 §3.4), a request
 * line (RFC 9112 §3) or what is meant as one, or another protocol. Undefined: too few of them. `isHttp2Port`: the port is declared HTTP/2;
 * text is then meant as HTTP/1.x only if its line says so, and else an invalid preface, which is HTTP/2's to refuse.
 */
export function protocolOf(bytes: Uint8Array, isHttp2Port = false): HttpProtocol | "other" | undefined {
  const shared = sharedWithPreface(bytes);
  if (shared === preface.length) return "http2";
  if (shared === bytes.length) return undefined;
  const line = lineOf(bytes);
  if (line !== "unlike") return line;
  if (!beginsAsText(bytes[0] as number)) return "other";
  return isHttp2Port ? meantOf(bytes) : "http1";
}

/** Who reads what has told nothing in its time: HTTP/1; on a port declared HTTP/2 only what may be a request line of HTTP/1.x. */
export function takenFor(bytes: Uint8Array, isHttp2Port: boolean): HttpProtocol {
  const mayBeLine = sharedWithPreface(bytes) < bytes.length && lineOf(bytes) !== "unlike";
  return isHttp2Port && !mayBeLine ? "http2" : "http1";
}

function sharedWithPreface(bytes: Uint8Array): number {
  let shared = 0;
  while (shared < preface.length && shared < bytes.length && bytes[shared] === preface[shared]) shared++;
  return shared;
}

/** Whether they begin with a request line of HTTP/1.x; undefined: they may. */
function lineOf(bytes: Uint8Array): "http1" | "unlike" | undefined {
  let at = 0;
  while (at < bytes.length && tokenBytes.has(bytes[at] as number)) at++;
  if (at === 0 || at > longestMethod) return "unlike";
  if (at === bytes.length) return undefined;
  if (bytes[at] !== space) return "unlike";
  for (at++; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte === lf) return endsInVersion(bytes.subarray(0, at)) ? "http1" : "unlike";
    if ((byte < space && byte !== cr) || byte === del) return "unlike";
  }
  return undefined;
}

/** Text that is no request line: the end of its first line, empty ones passed over, says what was meant. */
function meantOf(bytes: Uint8Array): HttpProtocol | undefined {
  let start = 0;
  while (bytes[start] === cr || bytes[start] === lf) start++;
  const end = bytes.indexOf(lf, start);
  if (end === -1) return undefined;
  const last = Buffer.from(bytes.subarray(Math.max(start, end - longestVersion), end)).toString("latin1");
  return /HTTP\/1\.[0-9][ \t\r]*$/i.test(last) ? "http1" : "http2";
}

/** With a letter, or a line end before it (RFC 9112 §2.2): meant as a request, if not a good one, and HTTP's to refuse. */
const beginsAsText = (byte: number): boolean =>
  (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a) || byte === cr || byte === lf;

function endsInVersion(line: Uint8Array): boolean {
  const end = line[line.length - 1] === cr ? line.length - 1 : line.length;
  const version = Buffer.from(line.subarray(Math.max(0, end - 9), end)).toString("latin1");
  return version === " HTTP/1.1" || version === " HTTP/1.0";
}

/** Takes a client over: reads from `open(onread)` as any connection does. */
export type TakeClient = (open: (onread: OnReadOpts) => Socket) => Client;
export interface Client {
  drain(): void;
}

export interface WaitLimits {
  /** Until the first byte: as long as a connection may rest between requests. */
  readonly idleTimeoutMs: number;
  /** From then until enough has come to tell; what tells nothing by then is read as `takenFor` says, and refused as that. */
  readonly headTimeoutMs: number;
  /** The same of a connection that is to end. */
  readonly drainIdleMs: number;
}

export interface SniffLimits extends WaitLimits {
  /** The port is declared HTTP/2: see protocolOf. */
  readonly isHttp2Port: boolean;
}

export type Takers = Readonly<Record<HttpProtocol | "other", TakeClient>>;

/** A connection whose first bytes decide who reads it. `gone`: it ended before they came. */
export class UnknownClient implements Client {
  private readonly buffer = Buffer.allocUnsafeSlow(firstBytes);
  private kept = 0;
  private reader: OnReadOpts | undefined;
  private client: Client | undefined;
  private readonly socket: Socket;
  private readonly takers: Takers;
  private readonly gone: () => void;
  private readonly clock: Pick<Clock, "after">;
  private readonly limits: SniffLimits;
  private cancel: () => void;
  private readonly ended = (): void => {
    this.release();
    this.socket.on("error", () => {});
    this.socket.destroy();
    this.gone();
  };

  constructor(
    open: (onread: OnReadOpts) => Socket,
    takers: Takers,
    gone: () => void,
    clock: Pick<Clock, "after">,
    limits: SniffLimits,
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
    if (this.reader !== undefined) {
      // Asked for before there was a reader, where it was no read that brought it in.
      if (into.buffer === this.buffer.buffer) return this.replay(into.subarray(0, count));
      return this.reader.callback(count, into);
    }
    const isFirst = this.kept === 0;
    this.kept += count;
    const protocol = protocolOf(this.buffer.subarray(0, this.kept), this.limits.isHttp2Port);
    // A request line may be longer than what is kept of it.
    if (protocol !== undefined || this.kept === this.buffer.length) return this.giveTo(protocol ?? this.guess());
    if (isFirst) {
      this.cancel();
      this.cancel = this.clock.after(this.limits.headTimeoutMs, () => {
        if (!this.giveTo(this.guess())) this.socket.pause();
      });
    }
    return true;
  }

  private guess(): HttpProtocol {
    return takenFor(this.buffer.subarray(0, this.kept), this.limits.isHttp2Port);
  }

  private giveTo(protocol: keyof Takers): boolean {
    this.release();
    this.client = this.takers[protocol]((onread) => {
      this.reader = onread;
      return this.socket;
    });
    return this.replay(this.buffer.subarray(0, this.kept));
  }

  /** What was read, in pieces of the reader's own buffers. */
  private replay(bytes: Uint8Array): boolean {
    let going = true;
    for (let at = 0; at < bytes.length; ) {
      const into = this.next();
      const count = Math.min(into.length, bytes.length - at);
      into.set(bytes.subarray(at, at + count));
      at += count;
      going = (this.reader as OnReadOpts).callback(count, into);
    }
    return going;
  }
}
