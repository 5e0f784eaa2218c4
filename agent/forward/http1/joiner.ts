// How an exchange gives the rest of a long body away, and what it is told of it. Types alone.
import type { Socket } from "node:net";
import type { JoinEnd } from "../../native-calls.ts";

export type { JoinEnd };

export interface JoinListener {
  /** How far it is, from time to time. */
  moved(taken: number, moved: number): void;
  /** Both sockets are the caller's again. Called once, never during `join`. */
  ended(end: JoinEnd): void;
}

export interface Join {
  /** Stops it soon; `ended` is still called. */
  cancel(): void;
}

export interface Joiner {
  /** Bodies of which less is left stay where they are. */
  readonly leastBytes: number;
  /**
   * Moves `bytes` from one socket to the other. Until `ended` the caller reads nothing from `source` and writes nothing to `sink`, of which
   * nothing may wait to be written. Undefined: these two cannot be joined.
   */
  join(source: Socket, sink: Socket, bytes: number, listener: JoinListener): Join | undefined;
}
