// Which optional kinds the cluster has, and in which version: from their CustomResourceDefinitions, followed as they come and go.
// Only names are watched (a CRD's schema may be half a megabyte); a definition that concerns us is read by itself.
import { createBackoff } from "../../../agent/base/backoff.ts";
import { isMissing, showFault } from "../../../agent/kubernetes/fault.ts";
import {
  type Mirror,
  Reflector,
  type ReflectorOptions,
  type ReflectorParts,
} from "../../../agent/kubernetes/reflector.ts";
import type { RawObject } from "../../../agent/kubernetes/wire.ts";
import { type Collected, crdOf } from "./resources.ts";

export interface InstalledOptions<R extends Collected>
  extends Omit<ReflectorOptions, "name" | "path" | "acceptList" | "acceptWatch"> {
  readonly resources: readonly R[];
}
export interface InstalledParts<R extends Collected> extends Omit<ReflectorParts, "mirror"> {
  /** The version in which a kind is served now; undefined when it is not. */
  readonly changed: (resource: R, version: string | undefined) => void;
}

const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const partial = "application/json;as=PartialObjectMetadata";

export class Installed<R extends Collected> {
  readonly #byName: ReadonlyMap<string, R>;
  readonly #options: InstalledOptions<R>;
  readonly #parts: InstalledParts<R>;
  readonly #reflector: Reflector;
  readonly #stop = new AbortController();
  /** Version of the definition that was seen last, by name. */
  #seen = new Map<string, string>();
  #staged: Map<string, string> | undefined;
  readonly #looking = new Map<string, Promise<void>>();
  readonly #again = new Set<string>();
  readonly #versions = new Map<string, string | undefined>();

  constructor(options: InstalledOptions<R>, parts: InstalledParts<R>) {
    this.#options = options;
    this.#parts = parts;
    this.#byName = new Map(options.resources.map((resource) => [crdOf(resource), resource]));
    this.#reflector = new Reflector(
      {
        ...options,
        name: "CustomResourceDefinition",
        path,
        acceptList: `${partial}List;g=meta.k8s.io;v=v1,application/json`,
        acceptWatch: `${partial};g=meta.k8s.io;v=v1,application/json`,
      },
      { ...parts, mirror: this.#mirror() },
    );
  }

  get fault(): string | undefined {
    return this.#reflector.fault;
  }
  get isSynced(): boolean {
    return this.#reflector.isSynced;
  }
  start(): void {
    this.#reflector.start();
  }
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#reflector.stop();
    await Promise.all(this.#looking.values());
  }
  /** Resolves when every optional kind is known to be there or not, or when stopped. */
  async ready(): Promise<void> {
    await this.#reflector.first;
    await Promise.all(this.#looking.values());
  }
  relist(): Promise<void> {
    return this.#reflector.relist("asked");
  }

  #mirror(): Mirror {
    return {
      stage: (items) => {
        this.#staged ??= new Map();
        for (const item of items) this.#staged.set(item.metadata.name, versionOf(item));
      },
      commit: () => {
        const before = this.#seen;
        this.#seen = this.#staged ?? new Map();
        this.#staged = undefined;
        for (const name of this.#byName.keys()) {
          const version = this.#seen.get(name);
          if (version === undefined) this.#set(name, undefined);
          else if (version !== before.get(name)) this.#look(name);
        }
      },
      discard: () => {
        this.#staged = undefined;
      },
      put: (object) => {
        const { name } = object.metadata;
        this.#seen.set(name, versionOf(object));
        if (this.#byName.has(name)) this.#look(name);
      },
      remove: ({ metadata }) => {
        this.#seen.delete(metadata.name);
        if (this.#byName.has(metadata.name)) this.#set(metadata.name, undefined);
      },
    };
  }

  /** Reads one definition, again if it changes meanwhile. */
  #look(name: string): void {
    this.#again.add(name);
    if (this.#looking.has(name)) return;
    this.#looking.set(
      name,
      this.#read(name).finally(() => this.#looking.delete(name)),
    );
  }
  async #read(name: string): Promise<void> {
    const { api, clock, random, log, meter } = this.#parts;
    const backoff = createBackoff(this.#options.backoff, random);
    const { signal } = this.#stop;
    while (this.#again.has(name) && !signal.aborted) {
      this.#again.delete(name);
      const answer = await api.send({ path: `${path}/${name}`, signal });
      if (signal.aborted) return;
      if (answer.ok) this.#set(name, this.#served(name, answer.value));
      else if (isMissing(answer.error)) this.#set(name, undefined);
      else {
        meter.failed(answer.error.kind);
        log.warn("kubernetes_crd_unreadable", { name, reason: showFault(answer.error) });
        this.#again.add(name);
        await clock.sleep(backoff.nextMs(), signal);
      }
    }
  }
  /** A definition that was removed while it was being read is gone, whatever was read. */
  #set(name: string, version: string | undefined): void {
    const resource = this.#byName.get(name);
    const now = this.#seen.has(name) ? version : undefined;
    if (resource === undefined || (this.#versions.has(name) && this.#versions.get(name) === now)) return;
    this.#versions.set(name, now);
    this.#parts.changed(resource, now);
  }

  /** The best version that the API server serves by now and that we can read. */
  #served(name: string, value: unknown): string | undefined {
    const crd = value as {
      readonly spec?: { readonly versions?: readonly { readonly name?: unknown; readonly served?: unknown }[] };
      readonly status?: { readonly conditions?: readonly { readonly type?: unknown; readonly status?: unknown }[] };
    } | null;
    const conditions = crd?.status?.conditions;
    const isEstablished =
      Array.isArray(conditions) && conditions.some((c) => c?.type === "Established" && c.status === "True");
    const versions = crd?.spec?.versions;
    if (!isEstablished || !Array.isArray(versions)) return undefined;
    const served = new Set(versions.filter((v) => v?.served === true).map((v) => v.name));
    const known = this.#byName.get(name)?.versions ?? [];
    const best = known.find((version) => served.has(version));
    if (best === undefined)
      this.#parts.log.warn("kubernetes_kind_not_read", {
        name,
        reason: `it is served as ${[...served].join(", ") || "nothing"}`,
        fix: `install a definition that serves ${known.join(" or ")}`,
      });
    return best;
  }
}

const versionOf = (object: RawObject): string => object.metadata.resourceVersion ?? "";
