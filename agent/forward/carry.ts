// Carries one connection between two sockets of a data thread, byte for byte, half-close and resets included; native does this for
// everything that needs no look inside.
import type { LaneSocket } from "./dial.ts";

export interface Carried {
  readonly sent: number;
  readonly received: number;
  /** Why it ended early; absent after an orderly end. */
  readonly error?: string;
}

/** Resolves when both sockets are closed. A side that fails resets the other, so that no break looks like an end. */
export function carry(client: LaneSocket, upstream: LaneSocket): Promise<Carried> {
  return new Promise((resolve) => {
    let error: string | undefined;
    const fail = (other: LaneSocket, failed: Error): void => {
      error ??= failed.message;
      other.reset();
    };
    for (const socket of [client, upstream]) socket.setNoDelay(true);
    client.on("error", (failed) => fail(upstream, failed));
    upstream.on("error", (failed) => fail(client, failed));
    let left = 2;
    const closed = (): void => {
      if (--left > 0) return;
      const { bytesRead: received, bytesWritten: sent } = upstream;
      resolve({ sent, received, ...(error === undefined ? {} : { error }) });
    };
    client.once("close", closed);
    upstream.once("close", closed);
    client.pipe(upstream);
    upstream.pipe(client);
  });
}
