// What one agent has asked for, was sent and has acknowledged of one resource type. Pure; the rules are those of incremental xDS.
import type { DeltaDiscoveryRequest, DeltaDiscoveryResponse } from "../../agent/api/discovery.gen.ts";
import type { Snapshot } from "./snapshot.ts";

export interface Nack {
  readonly names: readonly string[];
  readonly message: string;
}
interface Pending {
  readonly nonce: string;
  readonly sent: readonly (readonly [name: string, version: string])[];
  readonly removed: readonly string[];
}
/** The next message waits for the answer to this one, so this bounds what an agent decodes at once; it holds hundreds of workloads. */
export const maxResponseBytes = 131_072;

export class Subscription {
  readonly typeUrl: string;
  #isWildcard = false;
  readonly #names = new Set<string>();
  /** What the agent has or is being sent. */
  readonly #sent = new Map<string, string>();
  readonly #acked = new Map<string, string>();
  readonly #refused = new Map<string, string>();
  readonly #dirty = new Set<string>();
  #pending: Pending | undefined;
  #owesAnswer = false;
  #isStarted = false;

  constructor(typeUrl: string) {
    this.typeUrl = typeUrl;
  }

  /** One request at most is unanswered, so a slow agent costs a set of names, never a queue of messages. */
  get isWaiting(): boolean {
    return this.#pending !== undefined;
  }
  /** Version that the agent has accepted, if any. */
  ackedVersion(name: string): string | undefined {
    return this.#acked.get(name);
  }
  /** Why the agent refused the version it was sent last. */
  refusal(name: string): string | undefined {
    return this.#refused.get(name);
  }
  wants(name: string): boolean {
    return this.#isWildcard || this.#names.has(name);
  }

  /** Takes a request in; returns a NACK if it was one. */
  request(message: DeltaDiscoveryRequest, snapshot: Snapshot): Nack | undefined {
    const nack = message.responseNonce === "" ? undefined : this.#answered(message);
    const isFirst = !this.#isStarted;
    if (isFirst) {
      this.#isStarted = true;
      this.#owesAnswer = true;
      for (const [name, version] of Object.entries(message.initialResourceVersions)) {
        this.#sent.set(name, version);
        this.#acked.set(name, version);
      }
    }
    const isLegacyWildcard = isFirst && message.resourceNamesSubscribe.length === 0;
    if (isLegacyWildcard) this.#startWildcard(snapshot);
    for (const name of message.resourceNamesSubscribe) {
      if (name === "*") {
        this.#startWildcard(snapshot);
        continue;
      }
      this.#names.add(name);
      // Asking for a name again means that the agent has lost it.
      if (!isFirst) this.#sent.delete(name);
      this.#dirty.add(name);
      this.#owesAnswer = true;
    }
    for (const name of message.resourceNamesUnsubscribe) {
      if (name === "*") this.#isWildcard = false;
      else this.#names.delete(name);
      for (const known of name === "*" ? [...this.#sent.keys()] : [name]) if (!this.wants(known)) this.#forget(known);
    }
    if (isFirst && !this.#isWildcard)
      for (const name of [...this.#sent.keys()]) if (!this.wants(name)) this.#forget(name);
    return nack;
  }

  notify(names: ReadonlySet<string>): void {
    if (!this.#isStarted) return;
    for (const name of names) if (this.wants(name)) this.#dirty.add(name);
  }

  /** The next response if one is due: nothing is unanswered, and something differs or an answer is owed. */
  next(nonce: string, snapshot: Snapshot): DeltaDiscoveryResponse | undefined {
    if (!this.#isStarted || this.#pending !== undefined || (this.#dirty.size === 0 && !this.#owesAnswer))
      return undefined;
    const resources: DeltaDiscoveryResponse["resources"] = [];
    const removed: string[] = [];
    let bytes = 0;
    for (const name of this.#dirty) {
      const current = snapshot.get(this.typeUrl, name);
      if (current !== undefined && this.#sent.get(name) !== current.version) {
        if (bytes > 0 && bytes + current.bytes.length > maxResponseBytes) break;
        bytes += current.bytes.length + 2 * name.length + 64;
        resources.push({
          name,
          version: current.version,
          resource: { typeUrl: this.typeUrl, value: Buffer.from(current.bytes) },
        });
      } else if (current === undefined && (this.#sent.has(name) || this.#names.has(name))) {
        bytes += name.length + 4;
        removed.push(name);
      }
      this.#dirty.delete(name);
      if (bytes > maxResponseBytes) break;
    }
    if (resources.length === 0 && removed.length === 0 && !this.#owesAnswer) return undefined;
    const sent = resources.map((r) => [r.name, r.version] as const);
    for (const [name, version] of sent) this.#sent.set(name, version);
    for (const name of removed) this.#sent.delete(name);
    this.#pending = { nonce, sent, removed };
    // Named only by the last part of a state: with it the agent is up to date.
    const isLast = this.#dirty.size === 0;
    if (isLast) this.#owesAnswer = false;
    return {
      typeUrl: this.typeUrl,
      nonce,
      resources,
      removedResources: removed,
      systemVersionInfo: isLast ? String(snapshot.generation) : "",
    };
  }

  #answered(message: DeltaDiscoveryRequest): Nack | undefined {
    const pending = this.#pending;
    // An answer to anything but the last response is of the past.
    if (pending === undefined || pending.nonce !== message.responseNonce) return undefined;
    this.#pending = undefined;
    for (const name of pending.removed) {
      this.#acked.delete(name);
      this.#refused.delete(name);
    }
    const reason = message.errorDetail?.message;
    // An agent refuses single resources and keeps the rest; it names them in its answer. One that names none has refused all.
    const named =
      reason === undefined ? [] : pending.sent.filter(([name]) => reason.includes(name)).map(([name]) => name);
    const refused = new Set(reason === undefined || named.length > 0 ? named : pending.sent.map(([name]) => name));
    for (const [name, version] of pending.sent) {
      if (refused.has(name)) this.#refused.set(name, reason ?? "");
      else {
        this.#refused.delete(name);
        this.#acked.set(name, version);
      }
    }
    return reason === undefined ? undefined : { names: [...refused], message: reason };
  }

  #startWildcard(snapshot: Snapshot): void {
    this.#isWildcard = true;
    this.#owesAnswer = true;
    for (const name of snapshot.names(this.typeUrl)) this.#dirty.add(name);
    for (const name of this.#sent.keys()) this.#dirty.add(name);
  }

  #forget(name: string): void {
    this.#sent.delete(name);
    this.#acked.delete(name);
    this.#refused.delete(name);
    this.#dirty.delete(name);
  }
}
