// A cluster as a source: every kind mirrored by a reflector of its own, changes gathered for a moment and given to the sink together.
// The first snapshot waits until every kind is known: with policies missing it would let in what they refuse.
import type { Clock } from "../../../agent/base/clock.ts";
import type { Logger } from "../../../agent/base/log.ts";
import type { Random } from "../../../agent/base/random.ts";
import type { ApiClient } from "../../../agent/kubernetes/client.ts";
import { Reflector, type ReflectorOptions } from "../../../agent/kubernetes/reflector.ts";
import type { Source, SourceSink } from "../types.ts";
import { Batch, type BatchOptions } from "./batch.ts";
import { Collection } from "./collection.ts";
import { Installed } from "./installed.ts";
import type { KubernetesMeter } from "./meter.ts";
import { pathOf, type Resource, resources } from "./resources.ts";
import { Untranslated } from "./untranslated.ts";

export type KubernetesOptions = Omit<ReflectorOptions, "name" | "path" | "acceptList" | "acceptWatch"> & BatchOptions;
export interface KubernetesParts {
  readonly api: ApiClient;
  readonly sink: SourceSink;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: KubernetesMeter;
}
interface Mirrored {
  readonly collection: Collection;
  reflector: Reflector | undefined;
  version: string | undefined;
}

/** How long a resync on demand is waited for. */
const resyncPatienceMs = 10_000;

export function createKubernetesSource(options: KubernetesOptions, parts: KubernetesParts): Source {
  const { api, sink, clock, random, log, meter } = parts;
  const mirrored = new Map<string, Mirrored>();
  const stopping: Promise<void>[] = [];
  let isStarted = false;
  let isStopped = false;
  const measure = (): void => {
    for (const [kind, { collection, reflector }] of mirrored)
      if (reflector !== undefined) meter.objects(kind, collection.size - collection.refused, collection.refused);
  };
  const batch = new Batch(options, sink, clock, log, (seconds) => {
    meter.applied(seconds);
    measure();
  });

  /** Follows a kind in this version; undefined: it is gone, and with it its objects. */
  const follow = (resource: Resource, version: string | undefined): void => {
    const { kind } = resource;
    if (isStopped) return;
    const known = mirrored.get(kind) ?? {
      collection: new Collection(resource, batch),
      reflector: undefined,
      version: undefined,
    };
    if (known.version === version) return;
    mirrored.set(kind, known);
    if (known.reflector !== undefined) stopping.push(known.reflector.stop());
    known.version = version;
    known.reflector = undefined;
    known.collection.discard();
    if (version === undefined) {
      known.collection.clear();
      meter.forget(kind);
      log.info("kubernetes_kind_gone", { kind });
      return;
    }
    if (resource.isOptional) log.info("kubernetes_kind_found", { kind, version });
    known.reflector = new Reflector(
      { ...options, name: kind, path: pathOf(resource, version) },
      { api, mirror: known.collection, clock, random, log, meter: meter.of(kind) },
    );
    known.reflector.start();
  };
  const optional = resources.filter((resource) => resource.isOptional);
  const installed = new Installed(
    { ...options, resources: optional },
    { api, clock, random, log, meter: meter.of("CustomResourceDefinition"), changed: follow },
  );
  const untranslated = new Untranslated(options, {
    api,
    clock,
    random,
    log,
    meter: meter.of("untranslated"),
    changed: (ignored) => batch.ignored(ignored),
  });
  const reflectors = (): readonly [string, Reflector][] =>
    [...mirrored].flatMap(([kind, { reflector }]) => (reflector === undefined ? [] : [[kind, reflector] as const]));
  /** Until nothing is waited for any more: a kind may turn up while others are listed. */
  const allSynced = async (): Promise<void> => {
    await installed.ready();
    for (;;) {
      const waiting = reflectors().filter(([, reflector]) => !reflector.isSynced);
      if (waiting.length === 0 || isStopped) return;
      // A reflector that is stopped (its kind has gone) resolves, too.
      await Promise.all(waiting.map(([, reflector]) => reflector.first));
    }
  };
  const stop = async (): Promise<void> => {
    isStopped = true;
    batch.stop();
    await Promise.all([
      installed.stop(),
      untranslated.stop(),
      ...reflectors().map(([, reflector]) => reflector.stop()),
      ...stopping,
    ]);
  };

  return {
    async start(signal) {
      // Whatever is waited for ends when it is stopped.
      signal.addEventListener("abort", () => void stop(), { once: true });
      const startedMs = clock.monotonicMs();
      for (const resource of resources) if (!resource.isOptional) follow(resource, resource.versions[0]);
      installed.start();
      // Nothing waits for them.
      untranslated.start();
      await allSynced();
      if (isStopped) return;
      isStarted = true;
      batch.open();
      log.info("kubernetes_synced", {
        kinds: reflectors().length,
        objects: [...mirrored.values()].reduce((sum, { collection }) => sum + collection.size, 0),
        ms: Math.round(clock.monotonicMs() - startedMs),
      });
    },
    async rescan() {
      batch.flush();
    },
    async resync() {
      const patience = new AbortController();
      const all = Promise.all([installed.relist(), ...reflectors().map(([, reflector]) => reflector.relist("asked"))]);
      await Promise.race([all, clock.sleep(resyncPatienceMs, patience.signal)]);
      patience.abort();
      batch.flush();
    },
    stop,
    // Later on an API server that is away is no reason to send agents away: what is known stays in force.
    notReady() {
      if (isStarted) return undefined;
      const all = [["CustomResourceDefinition", installed] as const, ...reflectors()];
      const missing = all
        .filter(([, part]) => !part.isSynced)
        .map(([kind, part]) => `${kind}: ${part.fault ?? "being listed"}`);
      return `waiting for the API server: ${missing.slice(0, 3).join("; ") || "being read"}`;
    },
    where(kind) {
      const version = mirrored.get(kind)?.version;
      const resource = resources.find((r) => r.kind === kind);
      return version === undefined || resource === undefined
        ? undefined
        : { group: resource.group, version, plural: resource.plural };
    },
    details: () => ({
      source: "kubernetes",
      kinds: Object.fromEntries(
        reflectors().map(([kind, reflector]) => [
          kind,
          {
            objects: mirrored.get(kind)?.collection.size ?? 0,
            version: mirrored.get(kind)?.version ?? "",
            ...(reflector.contactMs === undefined
              ? {}
              : { secondsSinceContact: Math.round((clock.monotonicMs() - reflector.contactMs) / 1000) }),
            ...(reflector.fault === undefined ? {} : { fault: reflector.fault }),
          },
        ]),
      ),
    }),
  };
}
