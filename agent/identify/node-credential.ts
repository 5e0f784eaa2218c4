// The node's own credential: a join token once, then a certificate that renews itself. Kept in the run directory; it opens the
// discovery stream and the certificate service.
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { JoinRequest, JoinResponse } from "../api/mesh.gen.ts";
import { type NodeName, nodeId, type TrustDomain } from "../api/names.ts";
import { createBackoff } from "../base/backoff.ts";
import type { Clock } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { replaceFile } from "../base/replace-file.ts";
import { err, ok, type Result } from "../base/result.ts";
import { type KeyAndRequest, makeKeyAndRequest, validityOf } from "./keys.ts";

export interface NodeCredential {
  readonly keyPem: string;
  readonly chainPem: string;
  /** Roots that the controller's own certificate chains to. */
  readonly rootsPem: string;
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
}

/** The two calls of the controller that need no credential, or the current one. */
export interface JoinService {
  join(request: JoinRequest): Promise<Result<JoinResponse, string>>;
  renew(request: JoinRequest, current: NodeCredential): Promise<Result<JoinResponse, string>>;
}
export interface NodeCredentialParts {
  readonly node: NodeName;
  readonly trustDomain: TrustDomain;
  readonly runDir: string;
  /** "" when the agent is given none: then only a kept credential helps. */
  readonly tokenFile: string;
  readonly service: JoinService;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly changed: (credential: NodeCredential) => void;
}

/** Renewed at half of its life, so that a controller that is away for hours costs nothing. */
const renewAt = 0.5;

export class NodeCredentials {
  readonly #parts: NodeCredentialParts;
  readonly #path: string;
  /** The key of a join whose answer has not come: the token may have been given to it, and is good for no other. */
  readonly #askedPath: string;
  #asked: KeyAndRequest | undefined;
  #current: NodeCredential | undefined;
  #problem = "not joined yet";

  constructor(parts: NodeCredentialParts) {
    this.#parts = parts;
    this.#path = join(parts.runDir, "node-credential.json");
    this.#askedPath = join(parts.runDir, "node-join.json");
  }

  /** The credential, or why there is none. */
  current(): Result<NodeCredential, string> {
    return this.#current === undefined ? err(this.#problem) : ok(this.#current);
  }

  /** Reads what an earlier agent left; false if there is nothing that still holds. */
  async load(): Promise<boolean> {
    try {
      const kept = JSON.parse(await readFile(this.#path, "utf8")) as NodeCredential;
      if (!(kept.notAfterMs > this.#parts.clock.now()) || kept.keyPem === "") return false;
      this.#set(kept);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT")
        this.#parts.log.warn("node_credential_unreadable", { path: this.#path, message: messageOf(error) });
      return false;
    }
  }

  /** Joins and renews until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, log } = this.#parts;
    const backoff = createBackoff({ baseMs: 100, maxMs: 1_000 }, random);
    while (!signal.aborted) {
      const current = this.#current;
      if (current !== undefined && clock.now() < renewalTime(current)) {
        await clock.sleep(renewalTime(current) - clock.now(), signal);
        continue;
      }
      const got = await this.#obtain(current);
      if (got.ok) {
        backoff.reset();
        continue;
      }
      this.#problem = got.error;
      const retryMs = backoff.nextMs();
      // The first failures are the controller still starting; the log shows each reason once a while.
      if (backoff.attempts === 1 || backoff.attempts % 30 === 0)
        log.warn(current === undefined ? "join_failed" : "node_renewal_failed", { message: got.error });
      if (current !== undefined && clock.now() >= current.notAfterMs) this.#current = undefined;
      await clock.sleep(retryMs, signal);
    }
  }

  async #obtain(current: NodeCredential | undefined): Promise<Result<void, string>> {
    const { node, trustDomain, service, clock, log } = this.#parts;
    const token = current === undefined ? await this.#token() : ok("");
    if (!token.ok) return token;
    const made = current === undefined ? this.#joinKey() : makeKeyAndRequest(nodeId(trustDomain, node));
    const { keyPem, csrPem } = await made;
    const request = { node, token: token.value, csrPem };
    const answer = current === undefined ? await service.join(request) : await service.renew(request, current);
    if (!answer.ok) return answer;
    const { chainPem, rootsPem } = answer.value;
    const { notAfterMs } = validityOf(chainPem);
    const credential = { keyPem, chainPem, rootsPem, issuedAtMs: clock.now(), notAfterMs };
    this.#set(credential);
    log.info(current === undefined ? "node_joined" : "node_renewed", { notAfterMs });
    await replaceFile(this.#path, JSON.stringify(credential)).catch((error: Error) =>
      log.error("node_credential_not_kept", { path: this.#path, error }),
    );
    this.#asked = undefined;
    await rm(this.#askedPath, { force: true }).catch(() => {});
    return ok(undefined);
  }

  /** One key for all attempts to join, also those of an agent that was killed while it waited for the answer. */
  async #joinKey(): Promise<KeyAndRequest> {
    if (this.#asked !== undefined) return this.#asked;
    const { node, trustDomain, log } = this.#parts;
    const kept: unknown = await readFile(this.#askedPath, "utf8")
      .then(JSON.parse)
      .catch(() => undefined);
    if (isKeyOf(node, kept)) this.#asked = kept;
    if (this.#asked !== undefined) return this.#asked;
    this.#asked = await makeKeyAndRequest(nodeId(trustDomain, node));
    await replaceFile(this.#askedPath, JSON.stringify({ node, ...this.#asked })).catch((error: Error) =>
      log.error("join_key_not_kept", { path: this.#askedPath, error }),
    );
    return this.#asked;
  }

  async #token(): Promise<Result<string, string>> {
    const { tokenFile } = this.#parts;
    if (tokenFile === "") return err("no join token: set FAIRLEAD_JOIN_TOKEN_FILE");
    try {
      const token = (await readFile(tokenFile, "utf8")).trim();
      return token === "" ? err(`${tokenFile} is empty`) : ok(token);
    } catch (error) {
      return err(`join token: ${messageOf(error)}`);
    }
  }

  #set(credential: NodeCredential): void {
    this.#current = credential;
    this.#parts.changed(credential);
  }
}

/** Whether a file that is there says what this agent wrote: of this node, and whole. */
const isKeyOf = (node: NodeName, kept: unknown): kept is KeyAndRequest & { readonly node: NodeName } =>
  typeof kept === "object" &&
  kept !== null &&
  (kept as { node?: unknown }).node === node &&
  ["keyPem", "csrPem"].every((name) => String((kept as Record<string, unknown>)[name]).startsWith("-----BEGIN "));

const renewalTime = (credential: NodeCredential): number =>
  credential.issuedAtMs + (credential.notAfterMs - credential.issuedAtMs) * renewAt;
