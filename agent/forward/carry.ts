// Carries one stream socket to an address and back, byte for byte, half-close included. For data threads; native does this for
// everything that needs no look inside.
import { connect, type Socket } from "node:net";
import type { Endpoint } from "../flow.ts";

export interface Carried {
  readonly sent: number;
  readonly received: number;
  /** Why it ended early; absent after an orderly end. */
  readonly error?: string;
}

/**
 * Resolves when both directions have ended. A failing side ends the other, so that neither waits for nothing. It is closed, not reset:
 * libuv refuses to reset a stream that is shutting down, and Node then leaves the descriptor open.
 */
export function carry(client: Socket, to: Endpoint): Promise<Carried> {
  return new Promise((resolve) => {
    const upstream = connect({ host: to.ip, port: to.port, allowHalfOpen: true, noDelay: true });
    client.setNoDelay(true);
    let error: string | undefined;
    const fail = (failed: Error): void => {
      error ??= failed.message;
      client.destroy();
      upstream.destroy();
    };
    client.on("error", fail);
    upstream.on("error", fail);
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
