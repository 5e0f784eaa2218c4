// `fairlead install`: applies the rendered manifests to a cluster, and waits until agents and controller are ready.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseAllDocuments } from "yaml";
import { fieldsAt } from "../test/lab/objects.ts";
import type { Cluster } from "./cluster/connect.ts";
import { withCluster } from "./cluster/load.ts";
import { inOrder, type Manifest, nameOf, Objects } from "./cluster/objects.ts";
import { clusterOptions, placeOf } from "./cluster/options.ts";
import { type Call, type Command, Failure, pairs, UsageError, wholeNumber } from "./command.ts";

/** Rendered from the chart with its defaults. */
const files = ["definitions", "fairlead"].map((name) => new URL(`../manifests/install/${name}.yaml`, import.meta.url));
/** Where the rendered manifests put everything; another namespace needs Helm. */
export const renderedNamespace = "fairlead-system";
const againMs = 1_000;
const definedMs = 30_000;

export const install: Command = {
  name: "install",
  usage: "install [--image-prefix PREFIX] [--image-tag TAG] [--dry-run] [--wait SECONDS] [--context NAME] [--json]",
  summary: "Installs Fairlead with its defaults, or brings an installation up to date, and waits until it is ready.",
  details:
    "Applies manifests/install. For other settings use the Helm chart (manifests/chart, docs/install.md): it renders the same objects.\nfairlead check before it says whether the cluster can take it.",
  options: {
    "image-prefix": {
      type: "string",
      value: "PREFIX",
      help: "where the images are: PREFIX/agent and PREFIX/controller",
    },
    "image-tag": { type: "string", value: "TAG", help: "their tag" },
    "agent-env": {
      type: "string",
      value: "NAME=VALUE",
      multiple: true,
      help: "a setting of the agents (docs/reference.md); may be given several times",
    },
    "dry-run": { type: "boolean", help: "ask the API server what would change, and change nothing" },
    wait: {
      type: "string",
      value: "SECONDS",
      help: "how long pods have to become ready (default 300; 0: do not wait)",
    },
    ...clusterOptions,
    json: { type: "boolean", help: "print one JSON document" },
  },
  run: (call) => {
    const place = placeOf(call);
    if (place.namespace !== renderedNamespace)
      throw new UsageError(
        `--mesh-namespace ${place.namespace}: the rendered manifests use ${renderedNamespace}; for another one install with Helm (docs/install.md)`,
      );
    return withCluster(place, (cluster) => installed(cluster, call));
  },
};

/** The agents' settings, in place of those of the same name. Exported for tests. */
export function withAgentEnv(manifest: Manifest, env: Readonly<Record<string, string>>): Manifest {
  const names = Object.keys(env);
  if (manifest.kind !== "DaemonSet" || names.length === 0) return manifest;
  const changed = structuredClone(manifest) as Manifest & {
    readonly spec: {
      readonly template: { readonly spec: { readonly containers: { name: string; env?: unknown[] }[] } };
    };
  };
  for (const container of changed.spec.template.spec.containers) {
    if (container.name !== "agent") continue;
    const others = (container.env ?? []).filter((e) => !names.includes(String(fieldsAt(e).name)));
    container.env = [...others, ...names.map((name) => ({ name, value: env[name] }))];
  }
  return changed;
}

/** All rendered manifests as one stream of documents. */
export const renderedText = (): string => files.map((file) => readFileSync(file, "utf8")).join("\n---\n");

/** The manifests, with other images where asked. Exported for tests. */
export function manifestsFrom(text: string, prefix: string | undefined, tag: string | undefined): readonly Manifest[] {
  const documents = parseAllDocuments(text).map((d) => d.toJS() as Manifest | null);
  const manifests = documents.filter((m): m is Manifest => m !== null);
  return inOrder(manifests.map((m) => withImages(m, prefix, tag) as Manifest));
}

function withImages(value: unknown, prefix: string | undefined, tag: string | undefined): unknown {
  if (Array.isArray(value)) return value.map((item) => withImages(item, prefix, tag));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key,
      key === "image" && typeof inner === "string" ? imageOf(inner, prefix, tag) : withImages(inner, prefix, tag),
    ]),
  );
}

function imageOf(image: string, prefix: string | undefined, tag: string | undefined): string {
  const match = /^(.*)\/([^/:]+):([^/:]+)$/.exec(image);
  return match === null ? image : `${prefix ?? match[1]}/${match[2]}:${tag ?? match[3]}`;
}

async function installed(cluster: Cluster, call: Call): Promise<number> {
  const dryRun = call.flag("dry-run");
  const waitMs = wholeNumber(call, "wait", 300, 0, 86_400) * 1000;
  const env = pairs(call, "agent-env");
  const rendered = manifestsFrom(renderedText(), call.text("image-prefix"), call.text("image-tag"));
  const manifests = rendered.map((manifest) => withAgentEnv(manifest, env));
  const objects = new Objects(cluster);
  const done: { readonly object: string; readonly outcome: string }[] = [];
  for (const manifest of manifests) {
    const outcome = await applied(objects, manifest, dryRun, manifests);
    done.push({ object: nameOf(manifest), outcome });
    if (outcome !== "unchanged") call.output.err(`${nameOf(manifest)} ${dryRun ? "would be " : ""}${outcome}`);
  }
  const waiting = dryRun || waitMs === 0 ? [] : await ready(cluster, manifests, waitMs, call.output.err);
  if (call.flag("json"))
    call.output.out(JSON.stringify({ cluster: cluster.context, dryRun, objects: done, waiting }, null, 2));
  else call.output.out(summary(done, dryRun));
  if (waiting.length > 0) throw new Failure(`not ready yet: ${waiting.join("; ")}; fairlead check says more`);
  return 0;
}

function summary(done: readonly { readonly outcome: string }[], dryRun: boolean): string {
  const count = (outcome: string): number => done.filter((d) => d.outcome === outcome).length;
  return `${done.length} objects: ${count("created")} ${dryRun ? "would be " : ""}created, ${count("changed")} changed, ${count("unchanged")} as they were`;
}

/** A kind that has just been defined is served a moment later. In a dry run what would be defined here cannot be asked about. */
async function applied(
  objects: Objects,
  manifest: Manifest,
  dryRun: boolean,
  all: readonly Manifest[],
): Promise<string> {
  const until = Date.now() + definedMs;
  for (;;) {
    try {
      return await objects.apply(manifest, dryRun);
    } catch (error) {
      const isNew = all.some((m) => m.kind === "Namespace" && m.metadata.name === manifest.metadata.namespace);
      if (dryRun && isNew && /not found/.test((error as Error).message)) return "created";
      if (dryRun || !/serves no such kind/.test((error as Error).message) || Date.now() > until) throw error;
      await sleep(againMs);
    }
  }
}

/** What is not ready when the time is over. */
async function ready(
  cluster: Cluster,
  manifests: readonly Manifest[],
  waitMs: number,
  say: (line: string) => void,
): Promise<readonly string[]> {
  const until = Date.now() + waitMs;
  const objects = new Objects(cluster);
  let told = "";
  for (;;) {
    const open: string[] = [];
    for (const manifest of manifests) {
      if (manifest.kind !== "DaemonSet" && manifest.kind !== "Deployment") continue;
      const object = await cluster.find(await objects.path(manifest));
      const trouble = rolloutOf(fieldsAt(object));
      if (trouble !== undefined) open.push(`${nameOf(manifest)}: ${trouble}`);
    }
    if (open.length === 0 || Date.now() > until) return open;
    const line = open.join("; ");
    if (line !== told) say(line);
    told = line;
    await sleep(againMs);
  }
}

/** What is missing until a DaemonSet or Deployment is rolled out, undefined when nothing is. Exported for tests. */
export function rolloutOf(object: Readonly<Record<string, unknown>>): string | undefined {
  const { generation } = fieldsAt(object.metadata);
  const status = fieldsAt(object.status);
  if (Number(status.observedGeneration ?? 0) < Number(generation ?? 0)) return "not seen by its controller yet";
  const isDaemonSet = object.kind === "DaemonSet";
  const wanted = Number(isDaemonSet ? (status.desiredNumberScheduled ?? 0) : (fieldsAt(object.spec).replicas ?? 1));
  const updated = Number((isDaemonSet ? status.updatedNumberScheduled : status.updatedReplicas) ?? 0);
  const available = Number((isDaemonSet ? status.numberAvailable : status.availableReplicas) ?? 0);
  if (updated < wanted) return `${updated} of ${wanted} pods are of this version`;
  if (available < wanted) return `${available} of ${wanted} pods are ready`;
  return undefined;
}
