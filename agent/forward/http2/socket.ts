// Binds an HTTP/2 connection to a TCP socket: reads into one buffer, writes once per turn of the event loop, ends both together.
import type { Socket } from "node:net";
import type { Clock } from "../../base/clock.ts";
import { Http2Connection } from "./connection.ts";
import type { Http2Options } from "./events.ts";
import type { Http2Request, Http2Response } from "./head.ts";

const readBytes = 64 * 1024;
/** A shorter rest of a read buffer is not read into. */
const leastBytes = 24 * 1024;
/** A shorter rest of a read is copied, a longer one stays where it is, and the next read goes elsewhere. */
const leastKept = 8 * 1024;
/** Read buffers of connections that are gone, and of what waited and was worked off: new memory for each would be a flood of garbage. */
const spare: Buffer[] = [];
const mostSpare = 16;
/** How long a peer may owe the rest of a head, its settings or their acknowledgement. */
const dueMs = 10_000;
/** After GOAWAY what still comes is thrown away for so long, lest a reset overtakes the GOAWAY; and no more than so much of it. */
const lingerMs = 1_000;
const mostDiscardedBytes = 256 * 1024;

export type SocketClock = Pick<Clock, "monotonicMs" | "after">;

/** Connections of one thread that have something to write; written when the turn's reads are done. */
export class Turn {
  private dirty: Http2Socket<Http2Request | Http2Response>[] = [];
  private readonly run = (): void => {
    const dirty = this.dirty;
    this.dirty = [];
    for (const each of dirty) each.flushForIts();
  };

  add<H extends Http2Request | Http2Response>(socket: Http2Socket<H>): void {
    if (this.dirty.push(socket as unknown as Http2Socket<Http2Request | Http2Response>) === 1) setImmediate(this.run);
  }
}

export interface ReadGate {
  /** Before a read of so many bytes is worked off. Gives whether there is time to be kept: then `goesOn` is asked behind each frame. */
  beforeRead(bytes: number): boolean;
  readonly goesOn: () => boolean;
  /** A read, or a part of it, has been worked off. False: nothing more until `resume`. */
  afterRead(isWhole: boolean): boolean;
  /** Before what was gathered is written. Gives µs, or 0: nobody measures. */
  beforeWrite(): number;
  afterWrite(startUs: number): void;
}

export class Http2Socket<H extends Http2Request | Http2Response> {
  readonly connection: Http2Connection<H>;
  private readonly clock: SocketClock;
  private socket: Socket | null = null;
  private buffer: Buffer | null = null;
  private cancelDue: (() => void) | null = null;
  private ending = false;
  private discardedBytes = 0;
  /** Told of each read, and asked in it and after it whether to go on; if not, `resume` does. Only where bytes come by `onread`. */
  gate: ReadGate | undefined;
  /** Of a read that was not worked off to its end, for want of time. */
  private rest: Buffer | null = null;
  /** The read buffer in which it lies, if nobody else has a part of that. */
  private restArea: Buffer | null = null;

  constructor(options: Omit<Http2Options<H>, "wake" | "nowMs">, turn: Turn, clock: SocketClock) {
    this.clock = clock;
    this.connection = new Http2Connection<H>({
      ...options,
      nowMs: () => clock.monotonicMs(),
      wake: () => turn.add(this),
    });
  }

  /** For `new Socket({ fd, onread })` and `connect({ onread })`: the cheapest way to read. Then `attach(socket, false)`. */
  onread(): { buffer: () => Uint8Array; callback: (bytes: number) => boolean } {
    return {
      buffer: () => {
        this.buffer ??= spare.pop() ?? Buffer.allocUnsafeSlow(readBytes);
        return this.buffer;
      },
      callback: (bytes) => {
        const buffer = this.buffer as Buffer;
        return this.readNow(bytes === buffer.length ? buffer : buffer.subarray(0, bytes), buffer);
      },
    };
  }

  private readNow(read: Buffer, buffer: Buffer): boolean {
    const { gate } = this;
    const goesOn = gate?.beforeRead(read.length) === true ? gate.goesOn : undefined;
    const used = goesOn?.() === false ? 0 : this.receive(read, goesOn);
    const gave = used > 0 && this.connection.gave;
    // Somebody keeps a part of what was read; the rest is still ours.
    if (gave) this.buffer = buffer.length - read.length < leastBytes ? null : buffer.subarray(read.length);
    if (used < read.length) this.keep(read.subarray(used), buffer, gave);
    return gate === undefined || gate.afterRead(this.rest === null);
  }

  /** `rest` of a read into `buffer`, which the next read would take again if it had not been given away. */
  private keep(rest: Buffer, buffer: Buffer, gave: boolean): void {
    if (!gave && rest.length < leastKept) this.rest = Buffer.from(rest);
    else {
      this.rest = rest;
      if (gave) return;
      if (buffer.length === readBytes) this.restArea = buffer;
      this.buffer = null;
    }
  }

  private freeRest(): void {
    this.rest = null;
    if (this.restArea !== null && spare.length < mostSpare) spare.push(this.restArea);
    this.restArea = null;
  }

  private freeAll(): void {
    this.freeRest();
    if (this.buffer?.length === readBytes && spare.length < mostSpare) spare.push(this.buffer);
    this.buffer = null;
  }

  /** There is time again: for at least one frame of what was kept. */
  resume(): void {
    const { gate, rest } = this;
    if (this.socket?.destroyed !== false) return;
    if (rest !== null && gate !== undefined) {
      const used = this.receive(rest, gate.beforeRead(rest.length) ? gate.goesOn : undefined);
      if (used > 0 && this.connection.gave) this.restArea = null;
      if (used < rest.length) this.rest = rest.subarray(used);
      else this.freeRest();
      if (!gate.afterRead(this.rest === null)) return;
    }
    this.socket.resume();
  }

  /** Bytes that the peer has not taken. */
  get unsent(): number {
    return this.connection.sender.out.pending + (this.socket?.writableLength ?? 0);
  }

  /** Takes the socket over. `flowing`: it has no onread of ours and is read by its events. */
  attach(socket: Socket, flowing: boolean): void {
    this.socket = socket;
    socket.setNoDelay(true);
    if (flowing) socket.on("data", (chunk: Buffer) => this.receive(chunk));
    socket.on("drain", () => this.connection.writable(true));
    socket.on("end", () => this.lost("transport_end"));
    socket.on("error", (error: NodeJS.ErrnoException) => this.lost(error.code ?? "transport_error"));
    socket.on("close", () => {
      this.lost("transport_close");
      this.cancelDue?.();
      this.freeAll();
    });
    this.watch();
    this.flush();
  }

  /** Gives how many of the bytes were used; those that are not needed any more count as used. `goesOn` is asked behind each frame. */
  receive(bytes: Buffer, goesOn?: () => boolean): number {
    if (this.ending) {
      this.discardedBytes += bytes.length;
      if (this.discardedBytes > mostDiscardedBytes) this.socket?.destroy();
      return bytes.length;
    }
    const connection = this.connection;
    const used = connection.receive(bytes, goesOn);
    if (connection.due ? this.cancelDue === null : this.cancelDue !== null) this.watch();
    return used;
  }

  private watch(): void {
    this.cancelDue?.();
    this.cancelDue = null;
    if (this.connection.due) {
      this.cancelDue = this.clock.after(dueMs, () => this.connection.expire());
    }
  }

  private lost(reason: string): void {
    this.connection.lost(reason);
    if (!this.ending) this.end();
  }

  /** Writes what was gathered, at the cost of whose connection it is. */
  flushForIts(): void {
    const { gate } = this;
    if (gate === undefined) {
      this.flush();
      return;
    }
    const startUs = gate.beforeWrite();
    this.flush();
    gate.afterWrite(startUs);
  }

  /** Writes what was gathered; by the turn, or at once where somebody cannot wait for it. */
  flush(): void {
    const { socket, connection } = this;
    if (socket === null) return;
    const parts = connection.take();
    if (socket.destroyed || this.ending) {
      connection.flushed(false, false);
      return;
    }
    if (parts.length === 1) socket.write(parts[0] as Buffer);
    else if (parts.length > 1) {
      socket.cork();
      for (const part of parts) socket.write(part);
      socket.uncork();
    }
    const unsent = socket.writableLength;
    if (unsent > connection.limits.maxUnsent) {
      socket.destroy();
      connection.lost("unsent_limit");
    }
    connection.flushed(unsent === 0, !socket.writableNeedDrain);
    // What came with the end is gathered, and goes out in the next turn.
    if (connection.done && connection.sender.out.pending === 0) this.end();
  }

  private end(): void {
    const socket = this.socket;
    if (socket === null || this.ending) return;
    this.ending = true;
    this.cancelDue?.();
    this.cancelDue = null;
    if (socket.destroyed) return;
    socket.end();
    if (socket.readableEnded) socket.destroySoon();
    else this.cancelDue = this.clock.after(lingerMs, () => socket.destroy());
  }
}
