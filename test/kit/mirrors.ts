// A reflector over a scripted API server, with what it mirrors and counts laid open.
import { type Clock, systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { seededRandom } from "../../agent/base/random.ts";
import { type ApiClient, type ClientLimits, createApiClient } from "../../agent/kubernetes/client.ts";
import type { ReflectorMeter } from "../../agent/kubernetes/meter.ts";
import { Reflector, type ReflectorOptions } from "../../agent/kubernetes/reflector.ts";
import type { RawObject } from "../../agent/kubernetes/wire.ts";
import type { KubernetesMeter } from "../../controller/sources/kubernetes/meter.ts";
import type { FakeKubernetes } from "./fake-kubernetes.ts";

export const podsPath = "/api/v1/pods";
export const quickly: Omit<ReflectorOptions, "name" | "path"> = {
  pageSize: 500,
  watchIdleMs: 60_000,
  watchMs: 300_000,
  resyncMs: 0,
  backoff: { baseMs: 2, maxMs: 20 },
};
export interface Counts {
  readonly lists: Map<string, number>;
  readonly ends: Map<string, number>;
  readonly failures: Map<string, number>;
}
export function countingMeter(): ReflectorMeter & Counts {
  const lists = new Map<string, number>();
  const ends = new Map<string, number>();
  const failures = new Map<string, number>();
  const add = (to: Map<string, number>, key: string): void => void to.set(key, (to.get(key) ?? 0) + 1);
  return {
    lists,
    ends,
    failures,
    listed: (reason) => add(lists, reason),
    watchEnded: (reason) => add(ends, reason),
    failed: (label) => add(failures, label),
    event: () => {},
    synced: () => {},
    contact: () => {},
  };
}
export const silentMeter: KubernetesMeter = {
  of: () => countingMeter(),
  objects: () => {},
  applied: () => {},
  forget: () => {},
};
export const fastLimits: ClientLimits = {
  answerMs: 10_000,
  bodyIdleMs: 10_000,
  maxBodyBytes: 10_000_000,
  maxLineBytes: 100_000,
};

export interface Mirrored extends AsyncDisposable {
  readonly reflector: Reflector;
  /** "namespace/name" -> resourceVersion */
  readonly content: Map<string, string>;
  /** "put ns/name", "remove ns/name", in order; a list counts only for what it changes. */
  readonly changes: string[];
  readonly counts: Counts;
  readonly api: ApiClient;
}
/** A started mirror of the pods of `fake`. */
export function mirror(
  fake: FakeKubernetes,
  options: Partial<ReflectorOptions> = {},
  limits: Partial<ClientLimits> = {},
  clock: Clock = systemClock,
): Mirrored {
  const api = createApiClient(fake.access(), clock, { ...fastLimits, ...limits });
  const content = new Map<string, string>();
  const changes: string[] = [];
  const keyOf = ({ metadata }: RawObject): string => `${metadata.namespace ?? ""}/${metadata.name}`;
  const put = (object: RawObject): void => {
    const version = object.metadata.resourceVersion ?? "";
    if (content.get(keyOf(object)) === version) return;
    content.set(keyOf(object), version);
    changes.push(`put ${keyOf(object)}`);
  };
  const remove = (key: string): void => {
    if (content.delete(key)) changes.push(`remove ${key}`);
  };
  let staged: RawObject[] = [];
  const meter = countingMeter();
  const reflector = new Reflector(
    { ...quickly, name: "Pod", path: podsPath, ...options },
    {
      api,
      clock,
      random: seededRandom(7),
      log: silentLogger,
      meter,
      mirror: {
        stage: (items) => void staged.push(...items),
        discard: () => {
          staged = [];
        },
        commit() {
          const keys = new Set(staged.map(keyOf));
          for (const key of [...content.keys()]) if (!keys.has(key)) remove(key);
          for (const object of staged) put(object);
          staged = [];
        },
        put,
        remove: (object) => remove(keyOf(object)),
      },
    },
  );
  reflector.start();
  return {
    reflector,
    content,
    changes,
    api,
    counts: meter,
    async [Symbol.asyncDispose]() {
      await reflector.stop();
      api.close();
    },
  };
}
/** What a plain listing of the server would give. */
export const contentOf = (fake: FakeKubernetes, path = podsPath): Map<string, string> =>
  new Map(fake.all(path).map((o) => [`${o.metadata.namespace ?? ""}/${o.metadata.name}`, o.metadata.resourceVersion]));
