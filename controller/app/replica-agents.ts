// Agents of all replicas: each replica that does not lead keeps a ConfigMap of what its agents say, and the one that leads too where they have
// not enrolled a pod; all read them. One that has not been renewed for a while, by our own clock, is of a replica that is gone.
import { randomUUID } from "node:crypto";
import { gunzipSync, gzipSync } from "node:zlib";
import { type Clock, every } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import type { Random } from "../../agent/base/random.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { showFault } from "../../agent/kubernetes/fault.ts";
import type { ReflectorMeter } from "../../agent/kubernetes/meter.ts";
import { type Mirror, Reflector } from "../../agent/kubernetes/reflector.ts";
import type { RawObject } from "../../agent/kubernetes/wire.ts";
import type { NodeView } from "../status/reach.ts";
import {
  joinViews,
  type NotEnrolled,
  notEnrolledElsewhere,
  type Offered,
  type ReplicaSummary,
  readSummary,
} from "../status/replicas.ts";

export interface ReplicaParts {
  readonly api: ApiClient;
  readonly namespace: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: ReflectorMeter;
  readonly lead: { readonly isLeading: boolean };
  readonly offered: Offered;
  readonly summary: () => ReplicaSummary;
  /** Whether an agent of ours has pods that it has not enrolled. */
  readonly isLacking: () => boolean;
  /** Another replica's agents said something. */
  readonly changed: () => void;
}
interface Peer {
  readonly version: string;
  readonly text: string;
  readonly summary: ReplicaSummary | undefined;
  readonly seenMs: number;
}

const label = "fairlead.dev/agents-of";
/** How often a ConfigMap is renewed at least, and looked at to be written at most. */
const beatMs = 10_000;
const lookMs = 1_000;
/** After so long without a renewal the replica counts as gone, and after the second its ConfigMap is removed. */
const goneMs = 35_000;
const removeMs = 300_000;
/** What the API server takes in one object is 1.5 MB, of which text in base64 is a third more. */
const maxBytes = 1_000_000;

export class ReplicaAgents {
  readonly #parts: ReplicaParts;
  readonly #path: string;
  readonly #name = `fairlead-agents-${randomUUID()}`;
  readonly #reflector: Reflector;
  readonly #peers = new Map<string, Peer>();
  #stopLooking = (): void => {};
  #writing: Promise<void> = Promise.resolve();
  #isBusy = false;
  #written = { text: "", atMs: Number.NEGATIVE_INFINITY };

  constructor(parts: ReplicaParts) {
    this.#parts = parts;
    this.#path = `/api/v1/namespaces/${parts.namespace}/configmaps`;
    this.#reflector = new Reflector(
      {
        name: "ReplicaAgents",
        path: this.#path,
        query: { labelSelector: label },
        pageSize: 100,
        watchIdleMs: 120_000,
        watchMs: 300_000,
        resyncMs: 0,
        backoff: { baseMs: 250, maxMs: 5_000 },
      },
      { ...parts, mirror: this.#mirror() },
    );
  }

  start(): void {
    this.#reflector.start();
    this.#stopLooking = every(this.#parts.clock, lookMs, () => {
      if (this.#isBusy) return;
      this.#isBusy = true;
      this.#writing = this.#look().finally(() => {
        this.#isBusy = false;
      });
    });
  }
  /** Takes its own ConfigMap away. */
  async stop(): Promise<void> {
    this.#stopLooking();
    await Promise.all([this.#reflector.stop(), this.#writing]);
    if (this.#written.text !== "") await this.#remove(this.#name);
  }

  /** Agents of all replicas by node; `own` are those that are connected here. */
  views(own: ReadonlyMap<string, NodeView>): ReadonlyMap<string, NodeView> {
    return joinViews(own, this.#living(), this.#parts.offered);
  }
  /** Pods that agents of other replicas have not enrolled; `own` are the nodes that are connected here. */
  notEnrolled(own: { has(node: string): boolean }): NotEnrolled {
    return notEnrolledElsewhere(own, this.#living());
  }
  #living(): readonly ReplicaSummary[] {
    const nowMs = this.#parts.clock.monotonicMs();
    return [...this.#peers.values()].flatMap(({ summary, seenMs }) =>
      summary === undefined || nowMs - seenMs > goneMs ? [] : [summary],
    );
  }

  async #look(): Promise<void> {
    const { clock, lead, isLacking } = this.#parts;
    if (lead.isLeading)
      for (const [name, { seenMs }] of this.#peers)
        if (clock.monotonicMs() - seenMs > removeMs) await this.#remove(name);
    // What leads writes the statuses: of its own agents others must know only which pods these lack.
    const summary = lead.isLeading && !isLacking() ? undefined : this.#parts.summary();
    const text = summary === undefined || summary.nodes.length === 0 ? "" : JSON.stringify(summary);
    const isDue = clock.monotonicMs() - this.#written.atMs >= beatMs;
    if (text === this.#written.text && (text === "" || !isDue)) return;
    if (text === "") await this.#remove(this.#name);
    else if (!(await this.#write(text))) return;
    this.#written = { text, atMs: clock.monotonicMs() };
  }
  async #write(text: string): Promise<boolean> {
    const { api, clock, log, namespace } = this.#parts;
    const packed = gzipSync(text);
    if (packed.length > maxBytes) {
      log.error("replica_agents_too_large", {
        bytes: packed.length,
        effect: "its agents count as missing in statuses",
      });
      return true;
    }
    const answer = await api.send({
      method: "PATCH",
      path: `${this.#path}/${this.#name}`,
      query: { fieldManager: "fairlead", force: "true" },
      contentType: "application/apply-patch+yaml",
      body: {
        apiVersion: "v1",
        kind: "ConfigMap",
        metadata: {
          name: this.#name,
          namespace,
          labels: { [label]: "replica", "app.kubernetes.io/managed-by": "fairlead" },
          // Only that it changes counts.
          annotations: { "fairlead.dev/renewed": new Date(clock.now()).toISOString() },
        },
        binaryData: { agents: packed.toString("base64") },
      },
      deadlineMs: 10_000,
    });
    if (!answer.ok) log.warn("replica_agents_not_written", { reason: showFault(answer.error) });
    return answer.ok;
  }
  async #remove(name: string): Promise<void> {
    await this.#parts.api.send({ method: "DELETE", path: `${this.#path}/${name}`, deadlineMs: 5_000 });
  }

  #mirror(): Mirror {
    let staged: RawObject[] = [];
    const put = (object: RawObject): void => {
      const { name } = object.metadata;
      if (name === this.#name) return;
      const packed = (object.binaryData as { readonly agents?: unknown } | undefined)?.agents;
      const before = this.#peers.get(name);
      const text = typeof packed === "string" ? packed : "";
      const summary = before?.text === text ? before.summary : this.#read(name, text);
      const version = object.metadata.resourceVersion ?? "";
      // Seen again in a list it is no younger.
      const seenMs = before?.version === version ? before.seenMs : this.#parts.clock.monotonicMs();
      this.#peers.set(name, { version, text, summary, seenMs });
      if (before?.text !== text) this.#parts.changed();
    };
    return {
      stage: (items) => void staged.push(...items),
      commit: () => {
        const names = new Set(staged.map((object) => object.metadata.name));
        for (const name of this.#peers.keys()) if (!names.has(name)) this.#peers.delete(name);
        for (const object of staged) put(object);
        staged = [];
        this.#parts.changed();
      },
      discard: () => {
        staged = [];
      },
      put,
      remove: (object) => {
        if (this.#peers.delete(object.metadata.name)) this.#parts.changed();
      },
    };
  }
  #read(name: string, text: string): ReplicaSummary | undefined {
    try {
      const unpacked = gunzipSync(Buffer.from(text, "base64"), { maxOutputLength: 64_000_000 });
      const summary = readSummary(JSON.parse(unpacked.toString("utf8")));
      if (summary === undefined) throw new Error("it is no summary");
      return summary;
    } catch (error) {
      this.#parts.log.warn("replica_agents_unreadable", { name, reason: messageOf(error) });
      return undefined;
    }
  }
}
