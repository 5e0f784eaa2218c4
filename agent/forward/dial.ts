// Sockets of a data thread: those that native hands to it and those that it dials over its own channel. What a socket pair cannot
// say, a reset, goes over the channel both ways (docs/native-channel.md).
import { Socket, type SocketConstructorOpts } from "node:net";
import { ok, type Result } from "../base/result.ts";
import type { Native } from "../native.ts";
import type { CallFault, DialledSocket, DialParams } from "../native-calls.ts";

/** Longer than native's own limits together, so that it is native that gives up. */
const dialTimeoutMs = 60_000;

/** How a socket is read, where its owner brings the buffer (`onread`), or is a stream (absent). */
export type ReadOptions = Pick<SocketConstructorOpts, "onread">;

export interface Dialler {
  /**
   * Resolves with a connected socket, paused until it is read; an error's `code` is a close reason. `requests`: how it is read if it
   * carries requests as HTTP/2, which is then offered to the other agent.
   */
  dial(params: DialParams, read?: ReadOptions, requests?: ReadOptions): Promise<Result<LaneSocket, CallFault>>;
}

/** The facts about a socket that its owner may want. */
export interface SocketFacts {
  readonly fd: number;
  readonly id: number;
  /** One end of a socket pair, which native carries on; else a TCP socket. */
  readonly paired: boolean;
  readonly peer?: string;
  /** The other agent reads it as HTTP/2. */
  readonly takesRequests?: boolean;
  /** The kernel's own number of it; absent: it cannot be joined to another. */
  readonly cookie?: number;
}

/** A `net.Socket` that half-closes, and can be reset whatever it is. */
export class LaneSocket extends Socket {
  readonly fd: number;
  readonly id: number;
  readonly paired: boolean;
  readonly cookie: number | undefined;
  /** Who the peer of the tunnel is. */
  readonly peer: string | undefined;
  readonly takesRequests: boolean;
  readonly #owner: LaneSockets;

  constructor(owner: LaneSockets, facts: SocketFacts, read: ReadOptions = {}) {
    super({ fd: facts.fd, readable: true, writable: true, allowHalfOpen: true, ...read });
    this.fd = facts.fd;
    this.id = facts.id;
    this.cookie = facts.cookie;
    this.paired = facts.paired;
    this.peer = facts.peer;
    this.takesRequests = facts.takesRequests === true;
    this.#owner = owner;
  }

  /** Ends it so that the other side sees a reset. A TCP socket whose end is under way is closed: libuv does not reset such. */
  reset(): void {
    if (this.destroyed) return;
    if (this.paired) this.#owner.abort(this);
    else if (this.writableEnded) this.destroy();
    else super.resetAndDestroy();
  }

  override resetAndDestroy(): this {
    this.reset();
    return this;
  }
}

/** All sockets of a thread. `aborted` and `late` are what the thread's channel listener passes on. */
export class LaneSockets implements Dialler {
  readonly #native: Native;
  readonly #paired = new Map<number, LaneSocket>();
  readonly #all = new Set<LaneSocket>();

  constructor(native: Native) {
    this.#native = native;
  }

  get size(): number {
    return this.#all.size;
  }

  /** Takes a descriptor that native gave to this thread. */
  adopt(facts: SocketFacts, read?: ReadOptions): LaneSocket {
    const socket = new LaneSocket(this, facts, read);
    this.#all.add(socket);
    if (socket.paired) this.#paired.set(socket.id, socket);
    socket.once("close", () => {
      this.#all.delete(socket);
      if (this.#paired.get(socket.id) === socket) this.#paired.delete(socket.id);
    });
    return socket;
  }

  async dial(params: DialParams, read?: ReadOptions, requests?: ReadOptions): Promise<Result<LaneSocket, CallFault>> {
    const asked = requests === undefined ? params : { ...params, requests: true };
    const reply = await this.#native.call("dial", asked, dialTimeoutMs);
    if (!reply.ok) return reply;
    const facts = factsOf(reply.value);
    const socket = this.adopt(facts, facts.takesRequests === true ? requests : read);
    if (params.limits !== undefined && !socket.paired) socket.once("close", () => this.#release(socket.id));
    return ok(socket);
  }

  /** Native resets the stream first: closed before that, this end would look like one in order. */
  abort(socket: LaneSocket): void {
    socket.pause();
    void this.#native.call("abort", { id: socket.id }).then(() => socket.destroy());
  }

  /** Event `aborted`: the other side reset the stream. */
  aborted(id: number): void {
    const error = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET", syscall: "read" });
    this.#paired.get(id)?.destroy(error);
  }

  /** The reply to a dial that nobody waits for any more. */
  late(value: unknown): void {
    const dialled = value as Partial<DialledSocket>;
    if (dialled.fd !== undefined) new Socket({ fd: dialled.fd }).destroy();
    if (dialled.id !== undefined) this.#release(dialled.id);
  }

  /** Native cannot see the end of a socket that it gave away: its place among the connections to the service is free. */
  #release(id: number): void {
    void this.#native.call("release", { id });
  }

  /** Lets go of everything. */
  close(): void {
    for (const socket of this.#all) socket.destroy();
  }
}

const factsOf = ({ fd, id, lane, peer, cookie, requests }: DialledSocket): SocketFacts => ({
  fd,
  id,
  paired: lane === "tunnel" || lane === "hbone",
  ...(typeof peer === "string" ? { peer } : {}),
  ...(typeof cookie === "number" ? { cookie } : {}),
  takesRequests: requests === true,
});
