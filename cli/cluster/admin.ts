// The admin socket of an agent or controller in a cluster: reached by a program in its pod that passes bytes on, so whoever may run
// programs in that pod may ask, and nothing listens for it.
import { Agent } from "node:http";
import type { Duplex } from "node:stream";
import type { Cluster, PodName } from "./connect.ts";

/** As the images have it (cli/inside.ts). */
const relay = ["/usr/local/bin/fairlead", "relay"] as const;

/** Makes a connection for a request, and keeps one for the next. */
export class AdminAgent extends Agent {
  readonly #cluster: Pick<Cluster, "run">;
  readonly #pod: PodName;

  constructor(cluster: Pick<Cluster, "run">, pod: PodName) {
    super({ keepAlive: true, maxFreeSockets: 1 });
    this.#cluster = cluster;
    this.#pod = pod;
  }

  override createConnection(_options: unknown, done?: (error: Error | null, stream: Duplex) => void): undefined {
    const given = done as (error: Error | null, stream?: Duplex) => void;
    this.#cluster.run(this.#pod, relay).then(
      (stream) => given(null, stream),
      (error: Error) => given(error),
    );
    return undefined;
  }
}
