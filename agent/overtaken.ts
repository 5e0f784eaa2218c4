// Connections that overtook what is known of them: a socket and a change of the mesh come to a data thread by different ways, and the
// socket may be first. It then waits, unread, for the change that its plan was made from.
import type { PodName, ServiceName } from "./api/names.ts";
import type { Clock } from "./base/clock.ts";
import type { Replica } from "./replica.ts";
import type { HandedSocket } from "./threads.ts";

/** What is not there by then does not come: whoever is asked says what is missing. */
const longestMs = 5_000;

export class Overtaken {
  readonly #replica: Replica;
  readonly #clock: Pick<Clock, "after">;
  readonly #take: (handed: HandedSocket) => void;
  readonly #waiting = new Map<HandedSocket, () => void>();

  constructor(replica: Replica, clock: Pick<Clock, "after">, take: (handed: HandedSocket) => void) {
    this.#replica = replica;
    this.#clock = clock;
    this.#take = take;
  }

  /** Takes it as soon as its pod and its service are known here. */
  take(handed: HandedSocket): void {
    if (this.#isKnown(handed)) this.#take(handed);
    else
      this.#waiting.set(
        handed,
        this.#clock.after(longestMs, () => this.#go(handed)),
      );
  }

  /** More is known. */
  review(): void {
    for (const handed of [...this.#waiting.keys()]) if (this.#isKnown(handed)) this.#go(handed);
  }

  #go(handed: HandedSocket): void {
    this.#waiting.get(handed)?.();
    this.#waiting.delete(handed);
    this.#take(handed);
  }

  #isKnown({ pod, service }: HandedSocket): boolean {
    if (this.#replica.byName(pod as PodName) === undefined) return false;
    return typeof service !== "string" || this.#replica.state.services.byName(service as ServiceName) !== undefined;
  }
}
