// Keeps the certificates that the controller itself lives by fresh: its server certificate and the intermediate.
import { type Logger, messageOf } from "../../agent/base/log.ts";
import type { Authority } from "../issue/authority.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { isDue, makeServerIdentity, type ServerIdentity, type ServerIdentityOptions } from "./server-identity.ts";

/** The intermediate is made again this long before its end. */
const intermediateMarginMs = 60 * 86_400_000;

export class OwnCertificate {
  readonly #authority: Authority;
  readonly #options: ServerIdentityOptions;
  readonly #metrics: ControllerMetrics;
  readonly #log: Logger;
  #current: ServerIdentity;
  #isBusy = false;

  private constructor(
    authority: Authority,
    options: ServerIdentityOptions,
    metrics: ControllerMetrics,
    log: Logger,
    first: ServerIdentity,
  ) {
    this.#authority = authority;
    this.#options = options;
    this.#metrics = metrics;
    this.#log = log;
    this.#current = first;
  }

  static async make(
    authority: Authority,
    options: ServerIdentityOptions,
    metrics: ControllerMetrics,
    log: Logger,
  ): Promise<OwnCertificate> {
    return new OwnCertificate(authority, options, metrics, log, await makeServerIdentity(authority, options));
  }

  get current(): ServerIdentity {
    return this.#current;
  }

  /** Renews what is due; true if the server certificate is new. A failure is counted, logged and tried again at the next call. */
  async keepFresh(): Promise<boolean> {
    if (this.#isBusy) return false;
    this.#isBusy = true;
    try {
      if (await this.#authority.renewIntermediate(intermediateMarginMs)) this.#log.info("intermediate_renewed", {});
      if (await this.#authority.renewJwtKeys()) this.#log.info("jwt_keys_renewed", {});
      if (!isDue(this.#current, this.#authority, this.#options)) return false;
      this.#current = await makeServerIdentity(this.#authority, this.#options);
      return true;
    } catch (error) {
      this.#metrics.rotationFailures.add({ what: "own_certificates" });
      this.#log.error("own_certificates_not_renewed", { reason: messageOf(error) });
      return false;
    } finally {
      this.#isBusy = false;
    }
  }
}
