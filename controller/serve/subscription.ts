// What one agent has asked for, was sent and has acknowledged of one resource type. Pure; the rules are those of incremental xDS. It holds a
// position in the type's order of changes instead of a record for each resource, so a slow agent costs a number, never a queue, and
// gets of what changed several times only the newest.
import type { DiscoveryRequest, InitialVersions } from "./request.ts";
import { type Response, removedBytes, type Versioned } from "./response.ts";
import type { Snapshot, Told, TypeSnapshot } from "./snapshot.ts";

export interface Nack {
  readonly names: readonly string[];
  readonly message: string;
}
/** The next message waits for the answer to this one, so this bounds what an agent decodes at once; it holds hundreds of workloads. */
export const maxResponseBytes = 131_072;

export class Subscription {
  readonly typeUrl: string;
  #isWildcard = false;
  readonly #names = new Set<string>();
  /** What the agent said that it has, until the first state is there to be compared with. */
  #initial: InitialVersions | undefined;
  /** Changes up to here were sent, or are among the backlog. */
  #position = 0;
  /** Removals up to here are of names that this agent has never heard of. */
  #base = 0;
  #acked = 0;
  /** Names to be told of besides: where the agent's versions differ from ours, and what it asked for by name. */
  readonly #backlog = new Set<string>();
  readonly #refused = new Map<string, { readonly position: number; readonly reason: string }>();
  #pending: Told | undefined;
  /** It is told everything once more: by itself, since it must not get a response again that it has had. */
  #isRepeated = false;
  #owesAnswer = false;
  #isStarted = false;

  constructor(typeUrl: string) {
    this.typeUrl = typeUrl;
  }

  /** One response at most is unanswered. */
  get isWaiting(): boolean {
    return this.#pending !== undefined;
  }
  /** Whether the agent has accepted what the resource is now. */
  isCurrent(name: string, snapshot: Snapshot): boolean {
    const resource = snapshot.type(this.typeUrl)?.get(name);
    if (resource === undefined || this.#initial !== undefined || !this.#isStarted || !this.#wants(name)) return false;
    if (resource.position > this.#acked || this.#backlog.has(name)) return false;
    return (
      this.#refused.get(name)?.position !== resource.position && !this.#pending?.response.resources.includes(resource)
    );
  }
  /** Why the agent refused the version it was sent last. */
  refusal(name: string): string | undefined {
    return this.#refused.get(name)?.reason;
  }
  /** Whether so much was removed since the agent's last answer that it cannot be told any more: it must connect anew. */
  isTooFarBehind(snapshot: Snapshot): boolean {
    const oldest = snapshot.type(this.typeUrl)?.oldest ?? 0;
    return this.#isStarted && this.#initial === undefined && Math.max(this.#position, this.#base) < oldest;
  }

  /** Takes a request in; returns a NACK if it was one. */
  request(message: DiscoveryRequest, snapshot: Snapshot): Nack | undefined {
    const nack = message.responseNonce === "" ? undefined : this.#answered(message);
    const subscribed = message.resourceNamesSubscribe;
    if (!this.#isStarted) {
      this.#isStarted = true;
      this.#owesAnswer = true;
      this.#initial = message.initial;
      this.#isWildcard = subscribed.length === 0 || subscribed.includes("*");
      for (const name of subscribed) if (name !== "*") this.#names.add(name);
    } else for (const name of subscribed) this.#subscribe(name, snapshot);
    for (const name of message.resourceNamesUnsubscribe) {
      if (name === "*") this.#isWildcard = false;
      else this.#names.delete(name);
      for (const known of name === "*" ? [...this.#backlog, ...this.#refused.keys()] : [name])
        if (!this.#wants(known)) this.#forget(known);
    }
    return nack;
  }

  /**
   * The next response if one is due: nothing is unanswered, and something differs or an answer is owed. `newNonce`: for one that is made for
   * this agent alone.
   */
  next(newNonce: () => string, snapshot: Snapshot): Response | undefined {
    if (!this.#isStarted || this.#pending !== undefined) return undefined;
    const type = snapshot.type(this.typeUrl);
    if (this.#initial !== undefined) this.#begin(this.#initial, type);
    const last = type?.position ?? 0;
    if (!this.#owesAnswer && this.#backlog.size === 0 && this.#position >= last) return undefined;
    const isAsOthers =
      this.#isWildcard && !this.#isRepeated && this.#backlog.size === 0 && type !== undefined && this.#position < last;
    const told = isAsOthers
      ? type.told(this.#place, snapshot.generation, () => this.#tell(snapshot, type, () => snapshot.newNonce()))
      : this.#tell(snapshot, type, newNonce);
    const { position, response } = told;
    this.#position = position;
    if (response.resources.length === 0 && response.removed.length === 0 && !this.#owesAnswer) {
      // What changed concerns others.
      this.#acked = position;
      return undefined;
    }
    this.#pending = told;
    if (response.systemVersion !== "") this.#owesAnswer = false;
    return response;
  }
  /** All that what it is told next hangs on, if it follows everything and has no backlog. */
  get #place(): string {
    return this.#position >= this.#base ? `${this.#position}` : `${this.#position} ${this.#base}`;
  }
  /** Takes of the backlog and of what changed what fits into a response. */
  #tell(snapshot: Snapshot, type: TypeSnapshot | undefined, newNonce: () => string): Told {
    const part = new Part();
    this.#takeBacklog(part, type);
    const position = this.#backlog.size > 0 || type === undefined ? this.#position : this.#takeChanges(part, type);
    // Named only by the last part of a state: with it the agent is up to date.
    const isLast = this.#backlog.size === 0 && position >= (type?.position ?? 0);
    const { resources, removed } = part;
    const systemVersion = isLast ? `${snapshot.generation}` : "";
    return {
      response: { typeUrl: this.typeUrl, nonce: newNonce(), resources, removed, systemVersion },
      position,
    };
  }

  #wants(name: string): boolean {
    return this.#isWildcard || this.#names.has(name);
  }
  #forget(name: string): void {
    this.#backlog.delete(name);
    this.#refused.delete(name);
  }

  #subscribe(name: string, snapshot: Snapshot): void {
    this.#owesAnswer = true;
    if (name !== "*") {
      this.#names.add(name);
      // Asking for a name again means that the agent has lost it.
      this.#backlog.add(name);
    } else if (!this.#isWildcard) {
      this.#isWildcard = true;
      // Not yet begun: then everything is compared there.
      if (this.#initial === undefined) {
        this.#everything(snapshot.type(this.typeUrl));
        this.#isRepeated = true;
      }
    }
  }
  #everything(type: TypeSnapshot | undefined): void {
    this.#position = 0;
    this.#acked = 0;
    this.#base = type?.position ?? 0;
  }

  /** Compares what the agent has with what there is. */
  #begin(initial: InitialVersions, type: TypeSnapshot | undefined): void {
    this.#initial = undefined;
    if (this.#isWildcard && initial.isEmpty) {
      this.#everything(type);
      return;
    }
    this.#position = type?.position ?? 0;
    this.#base = this.#position;
    this.#acked = this.#position;
    if (this.#isWildcard && type !== undefined) {
      for (const name of type.differing(initial)) this.#backlog.add(name);
      return;
    }
    const same = new Set<string>();
    initial.forEach((name, version) => {
      if (type?.get(name)?.version === version) same.add(name);
      else if (this.#wants(name)) this.#backlog.add(name);
    });
    for (const name of this.#names) if (!same.has(name)) this.#backlog.add(name);
  }

  #takeBacklog(part: Part, type: TypeSnapshot | undefined): void {
    for (const name of this.#backlog) {
      const resource = type?.get(name);
      // What changed since then is told with the changes.
      const isLater = (resource?.position ?? type?.removalOf(name) ?? 0) > this.#position;
      if (!isLater && !part.take(name, resource)) return;
      this.#backlog.delete(name);
    }
  }
  /** Takes changes as far as they fit; returns the position up to which they are taken. */
  #takeChanges(part: Part, type: TypeSnapshot): number {
    let taken = this.#position;
    for (const { name, position } of type.after(taken)) {
      const resource = type.get(name);
      const concerns = this.#wants(name) && (resource !== undefined || position > this.#base);
      if (concerns && !part.take(name, resource)) return taken;
      taken = position;
    }
    return type.position;
  }

  #answered(message: DiscoveryRequest): Nack | undefined {
    const pending = this.#pending;
    // An answer to anything but the last response is of the past.
    if (pending?.response.nonce !== message.responseNonce) return undefined;
    this.#pending = undefined;
    this.#acked = Math.max(this.#acked, pending.position);
    const { resources, removed } = pending.response;
    for (const name of removed) this.#refused.delete(name);
    const reason = message.errorDetail?.message;
    // An agent refuses single resources and keeps the rest; it names them in its answer. One that names none has refused all.
    const named = reason === undefined ? [] : resources.filter(({ name }) => reason.includes(name));
    const refused = reason === undefined || named.length > 0 ? named : resources;
    for (const { name } of resources) this.#refused.delete(name);
    if (reason === undefined) return undefined;
    for (const { name, position } of refused) this.#refused.set(name, { position, reason });
    return { names: refused.map(({ name }) => name), message: reason };
  }
}

/** One response as it fills. */
class Part {
  readonly resources: Versioned[] = [];
  readonly removed: string[] = [];
  #bytes = 0;

  /** False, and nothing taken, when it is full. */
  take(name: string, resource: Versioned | undefined): boolean {
    const bytes = resource?.entry.length ?? removedBytes(name);
    if (this.#bytes > 0 && this.#bytes + bytes > maxResponseBytes) return false;
    this.#bytes += bytes;
    if (resource === undefined) this.removed.push(name);
    else this.resources.push(resource);
    return true;
  }
}
