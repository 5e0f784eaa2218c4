// Joins of two sockets of a data thread: native moves the bytes, this thread keeps its hands off both (docs/native-channel.md).
import type { Socket } from "node:net";
import type { Native } from "../native.ts";
import { LaneSocket } from "./dial.ts";
import type { Join, Joiner, JoinListener } from "./http1/joiner.ts";

/** A long body takes as long as it takes: its own timeouts end it. The most that a timer can wait, ms. */
const forever = 2 ** 31 - 1;

export class LaneJoins implements Joiner {
  readonly leastBytes: number;
  readonly #native: Native;
  readonly #open = new Map<number, JoinListener>();
  #last = 0;

  constructor(native: Native, leastBytes: number) {
    this.#native = native;
    this.leastBytes = leastBytes;
  }

  get size(): number {
    return this.#open.size;
  }

  join(source: Socket, sink: Socket, bytes: number, listener: JoinListener): Join | undefined {
    const [from, to] = [sideOf(source), sideOf(sink)];
    if (from === undefined || to === undefined) return undefined;
    const number = ++this.#last;
    this.#open.set(number, listener);
    void this.#native.call("join", { join: number, from, to, bytes }, forever).then((reply) => {
      this.#open.delete(number);
      if (reply.ok) listener.ended(reply.value);
      // Without its channel the thread is at its end, and native lets go by itself.
      else if (reply.error.code !== "channel_closed") listener.ended({ how: "refused", taken: 0, moved: 0 });
    });
    return { cancel: () => void this.#native.call("unjoin", { join: number }) };
  }

  /** Event `moved`. */
  moved(number: number, taken: number, moved: number): void {
    this.#open.get(number)?.moved(taken, moved);
  }
}

/** What native knows a socket by. Descriptors are numbers that are used again; the cookie is not. */
function sideOf(socket: Socket): { fd: number; cookie: number; id: number } | undefined {
  if (!(socket instanceof LaneSocket) || socket.destroyed || socket.cookie === undefined) return undefined;
  return { fd: socket.fd, cookie: socket.cookie, id: socket.id };
}
