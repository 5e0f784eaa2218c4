// Carries one connection between two sockets of a data thread, byte for byte, half-close and resets included; native does this for
// everything that needs no look inside.
import type { OnReadOpts } from "node:net";
import type { LaneSocket } from "./dial.ts";

const readBytes = 64 * 1024;

export interface Carried {
  readonly sent: number;
  readonly received: number;
  /** Whose side failed. */
  readonly reason: "finished" | "client_reset" | "server_reset";
}

/** What a client says before there is a server to say it to waits here; no more is read until then. */
export class ClientBytes {
  readonly onread: OnReadOpts;
  private readonly early: Buffer[] = [];
  private upstream: LaneSocket | undefined;

  constructor() {
    const buffer = Buffer.allocUnsafeSlow(readBytes);
    this.onread = {
      buffer,
      callback: (count) => {
        // A copy: the server's socket keeps what it cannot send at once.
        const bytes = Buffer.from(buffer.subarray(0, count));
        if (this.upstream !== undefined) return this.upstream.write(bytes);
        this.early.push(bytes);
        return false;
      },
    };
  }

  goTo(upstream: LaneSocket): void {
    this.upstream = upstream;
    for (const bytes of this.early.splice(0)) upstream.write(bytes);
  }
}

/**
 * Resolves when both sockets are closed. A side that fails resets the other, so that no break looks like an end.
 * @param said what `client` reads goes to
 */
export function carry(client: LaneSocket, said: ClientBytes, upstream: LaneSocket): Promise<Carried> {
  return new Promise((resolve) => {
    let reason: Carried["reason"] = "finished";
    const fail = (other: LaneSocket, whose: Carried["reason"]): void => {
      if (reason === "finished") reason = whose;
      other.reset();
    };
    for (const socket of [client, upstream]) socket.setNoDelay(true);
    client.on("error", () => fail(upstream, "client_reset"));
    upstream.on("error", () => fail(client, "server_reset"));
    let left = 2;
    const closed = (): void => {
      if (--left > 0) return;
      const { bytesRead: received, bytesWritten: sent } = upstream;
      resolve({ sent, received, reason });
    };
    client.once("close", closed);
    upstream.once("close", closed);
    client.on("end", () => upstream.end());
    upstream.on("drain", () => client.resume());
    said.goTo(upstream);
    upstream.pipe(client);
    if (!upstream.writableNeedDrain) client.resume();
  });
}
