// How the API server is reached, as the client wants it; and a pool of connections for as long as certificates and keys stay the same.
import { createHash } from "node:crypto";
import { Agent as HttpAgent } from "node:http";
import { type Agent, Agent as HttpsAgent, type RequestOptions } from "node:https";

export interface ApiAccess {
  /** "https://10.96.0.1:443", perhaps with a path. */
  readonly server: URL;
  /** Namespace of the context or of our own pod. */
  readonly namespace: string | undefined;
  /** Credentials and connections for the next request. @throws Error when a file cannot be read or a plugin fails */
  options(): Promise<Pick<RequestOptions, "headers" | "agent">>;
  /** Closes connections that are kept for later. */
  close(): void;
}

/** Connections are kept for later requests, and made anew when a certificate or key has changed. */
export class Connections {
  readonly #isTls: boolean;
  #agent: HttpAgent | undefined;
  #key = "";

  constructor(isTls: boolean) {
    this.#isTls = isTls;
  }

  of(given: RequestOptions): Agent {
    const { ca, cert, key, passphrase, servername, rejectUnauthorized } = given;
    const hash = createHash("sha256");
    for (const part of [ca, cert, key, passphrase, servername, rejectUnauthorized]) hash.update(`${String(part)}\0`);
    const fingerprint = hash.digest("hex");
    if (this.#agent === undefined || this.#key !== fingerprint) {
      // What still uses the old ones ends by itself: the new ones take only what comes.
      this.#agent = this.#isTls
        ? new HttpsAgent({
            ca,
            cert,
            key,
            passphrase,
            servername,
            rejectUnauthorized,
            keepAlive: true,
            maxFreeSockets: 4,
          })
        : new HttpAgent({ keepAlive: true, maxFreeSockets: 4 });
      this.#key = fingerprint;
    }
    return this.#agent as Agent;
  }
  close(): void {
    this.#agent?.destroy();
    this.#agent = undefined;
  }
}
