// Connections that are not taken: each is told so in HTTP and let go; beyond a few at a time they are reset.
import type { Socket } from "node:net";
import type { Sweep } from "./sweep.ts";

const mostTold = 256;
/** For so long what the client sends is read over, so that a reset does not destroy the answer on its way (RFC 9112 §9.6). */
const lingerMs = 2_000;

export class Refusing {
  readonly #sweep: Sweep;
  #told = 0;

  constructor(sweep: Sweep) {
    this.#sweep = sweep;
  }

  /** `why`: one line for whoever reads the answer. */
  refuse(socket: Socket, why: string): void {
    socket.on("error", () => {});
    if (this.#told >= mostTold) {
      socket.resetAndDestroy();
      return;
    }
    this.#told++;
    let isOver = false;
    const over = (): void => {
      if (isOver) return;
      isOver = true;
      this.#told--;
      cancel();
      socket.destroy();
    };
    const cancel = this.#sweep.after(lingerMs, over);
    socket.once("close", over);
    const head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\n";
    socket.end(`${head}content-length: ${Buffer.byteLength(why) + 1}\r\n\r\n${why}\n`);
    socket.resume();
  }
}
