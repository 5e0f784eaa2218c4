// `fairlead diag`: all that somebody needs who helps from afar, as one folder: versions, states, settings, metrics, logs. No secrets.
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { RawObject } from "../agent/kubernetes/wire.ts";
import { fieldsAt, listAt } from "../test/lab/objects.ts";
import { call as ask, type Place } from "../test/lab/unix-http.ts";
import type { Cluster } from "./cluster/connect.ts";
import { withCluster } from "./cluster/load.ts";
import { clusterOptions, placeOf } from "./cluster/options.ts";
import { type Call, type Command, UsageError } from "./command.ts";

const questions = {
  agent: ["status", "pods", "certs", "connections", "tunnels", "counters", "records?limit=1000", "requests", "config"],
  controller: ["status", "agents", "services", "routes", "certs", "config"],
} as const;
/** Of each container's log, from its end. */
const logLines = 5_000;
const answerMs = 30_000;

export const diag: Command = {
  name: "diag",
  usage: "diag [--out FOLDER] [--context NAME] [--json]",
  summary:
    "Gathers what a helper needs into a folder: versions, states, settings, metrics, logs, events. No keys, no Secrets.",
  details: "What could not be had is written down in problems.txt; exit code 1 if there was anything.",
  options: {
    out: { type: "string", value: "FOLDER", help: "where to (default: fairlead-diag-TIME); must not exist" },
    ...clusterOptions,
    json: { type: "boolean", help: "print one JSON document" },
  },
  run: async (call) => {
    if (call.words.length > 0) throw new UsageError("takes no words; give the folder with --out");
    const time = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
    const folder = resolve(call.text("out") ?? `fairlead-diag-${time}`);
    try {
      mkdirSync(folder, { mode: 0o700 });
    } catch (error) {
      throw new UsageError(`--out ${folder}: ${(error as Error).message}`);
    }
    return withCluster(placeOf(call), (cluster) => gathered(cluster, folder, call));
  },
};

class Report {
  readonly files: string[] = [];
  readonly problems: string[] = [];
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }
  write(name: string, content: unknown): void {
    const text = typeof content === "string" ? content : `${JSON.stringify(content, null, 2)}\n`;
    writeFileSync(join(this.#folder, name), text, { mode: 0o600 });
    this.files.push(name);
  }
  /** Writes what `made` gives, or notes why there is nothing. */
  async take(name: string, made: () => Promise<unknown>): Promise<void> {
    try {
      this.write(name, await made());
    } catch (error) {
      this.problems.push(`${name}: ${(error as Error).message}`);
    }
  }
}

async function gathered(cluster: Cluster, folder: string, call: Call): Promise<number> {
  const report = new Report(folder);
  const say = (line: string): void => call.output.err(line);
  const own = `/api/v1/namespaces/${cluster.namespace}`;
  say("versions, nodes and what is installed");
  await report.take("version.json", () => cluster.find("/version"));
  await report.take("nodes.json", () => cluster.list("/api/v1/nodes"));
  await report.take("namespaces.json", () => cluster.list("/api/v1/namespaces"));
  await report.take("events.json", () => cluster.list(`${own}/events`));
  for (const kind of ["daemonsets", "deployments"])
    await report.take(`${kind}.json`, () => cluster.list(`/apis/apps/v1/namespaces/${cluster.namespace}/${kind}`));
  for (const [group, kind] of kinds) await report.take(`${kind}.json`, () => cluster.list(`/apis/${group}/${kind}`));
  let pods: readonly RawObject[] = [];
  await report.take("pods.json", async () => {
    pods = await cluster.list(`${own}/pods`);
    return pods;
  });
  for (const [i, pod] of pods.entries()) {
    say(`pod ${pod.metadata.name} (${i + 1} of ${pods.length})`);
    await ofPod(cluster, pod, report);
  }
  if (report.problems.length > 0) report.write("problems.txt", `${report.problems.join("\n")}\n`);
  if (call.flag("json"))
    call.output.out(JSON.stringify({ folder, files: report.files, problems: report.problems }, null, 2));
  else call.output.out(`${report.files.length} files in ${folder}`);
  for (const problem of report.problems) say(problem);
  return report.problems.length === 0 ? 0 : 1;
}

/** Group and version, plural. */
const kinds = [
  ["gateway.networking.k8s.io/v1", "httproutes"],
  ["gateway.networking.k8s.io/v1", "grpcroutes"],
  ["security.istio.io/v1", "authorizationpolicies"],
  ["security.istio.io/v1", "peerauthentications"],
  ["mesh.fairlead.dev/v1alpha1", "resiliencepolicies"],
  ["mesh.fairlead.dev/v1alpha1", "ratelimitpolicies"],
  ["mesh.fairlead.dev/v1alpha1", "meshsettings"],
] as const;

async function ofPod(cluster: Cluster, pod: RawObject, report: Report): Promise<void> {
  const { name } = pod.metadata;
  const containers = listAt(fieldsAt(pod.spec).containers).map((c) => String(fieldsAt(c).name));
  for (const container of containers) {
    const path = `/api/v1/namespaces/${cluster.namespace}/pods/${name}/log`;
    await report.take(`${name}.${container}.log`, () => cluster.text(path, { container, tailLines: String(logLines) }));
  }
  const { AdminAgent } = await import("./cluster/admin.ts");
  for (const container of ["agent", "controller"] as const) {
    if (!containers.includes(container)) continue;
    const place = new AdminAgent(cluster, { namespace: cluster.namespace, name, container });
    for (const question of questions[container])
      await report.take(`${name}.${question.replace(/\?.*/, "")}.json`, () => asked(place, `/v1/${question}`));
    await report.take(`${name}.metrics.txt`, () => asked(place, "/metrics"));
    place.destroy();
  }
}

async function asked(place: Place, path: string): Promise<unknown> {
  const reply = await ask(place, path, { timeoutMs: answerMs });
  if (!reply.ok) throw new Error(reply.error);
  if (reply.value.status !== 200) throw new Error(`status ${reply.value.status} ${reply.value.text.slice(0, 200)}`);
  return reply.value.json ?? reply.value.text;
}
