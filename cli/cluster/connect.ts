// A cluster as the command line reaches it: a kubeconfig, requests to its API server, programs in its pods. Takes most of a second to
// load (@kubernetes/client-node), so commands import it when they need it.
import { existsSync } from "node:fs";
import { Exec, KubeConfig } from "@kubernetes/client-node";
import { systemClock } from "../../agent/base/clock.ts";
import { messageOf } from "../../agent/base/log.ts";
import { type ApiClient, createApiClient } from "../../agent/kubernetes/client.ts";
import { isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import { type RawObject, readPage } from "../../agent/kubernetes/wire.ts";
import { accessOf } from "../../controller/kubernetes/access.ts";
import { Failure } from "../command.ts";
import { listed } from "../nearest.ts";
import { type ClusterPlace, defaultKubeconfig } from "./options.ts";
import { PodStream } from "./pod-stream.ts";

/** Objects asked for at a time. */
const pageSize = 500;
const textIdleMs = 30_000;

export interface PodName {
  readonly namespace: string;
  readonly name: string;
  readonly container: string;
}

export class Cluster {
  readonly context: string;
  /** Where Fairlead runs. */
  readonly namespace: string;
  readonly server: string;
  readonly api: ApiClient;
  readonly #config: KubeConfig;
  readonly #close: () => void;

  /** @throws Failure when no cluster is named, or it is not described well */
  constructor(place: ClusterPlace) {
    const config = loaded(place);
    const names = { file: "--kubeconfig", context: "--context" };
    const access = accessOf(config, names);
    if (!access.ok) throw new Failure(access.error);
    this.#config = config;
    this.context = config.getCurrentContext();
    this.namespace = place.namespace;
    this.server = access.value.server.href;
    this.api = createApiClient(access.value, systemClock, undefined, "fairlead");
    this.#close = () => {
      this.api.close();
      access.value.close();
    };
  }

  /** One object, or undefined where there is none. @throws Failure when the API server does not answer or forbids it */
  async find(path: string): Promise<RawObject | undefined> {
    const answer = await this.api.send({ path });
    if (answer.ok) return answer.value as RawObject;
    if (isMissing(answer.error)) return undefined;
    throw new Failure(`${path}: ${showFault(answer.error)}`);
  }

  /** A whole collection; empty where its kind is not there. @throws Failure as above */
  async list(path: string, query: Readonly<Record<string, string>> = {}): Promise<readonly RawObject[]> {
    const items: RawObject[] = [];
    let next = "";
    do {
      const paging = { limit: String(pageSize), ...(next === "" ? {} : { continue: next }) };
      const answer = await this.api.send({ path, query: { ...query, ...paging } });
      if (!answer.ok) {
        if (isMissing(answer.error)) return [];
        throw new Failure(`${path}: ${showFault(answer.error)}`);
      }
      const page = readPage(answer.value);
      if (page === undefined) throw new Failure(`${path}: the answer of ${this.server} is no list`);
      items.push(...page.items);
      next = page.next;
    } while (next !== "");
    return items;
  }

  /** What is no JSON, as a log: its lines. @throws Failure as above */
  async text(path: string, query: Readonly<Record<string, string>>): Promise<string> {
    const lines: string[] = [];
    const end = await this.api.watch({
      path,
      query,
      accept: "*/*",
      signal: new AbortController().signal,
      idleMs: textIdleMs,
      line(text) {
        lines.push(text);
        return true;
      },
    });
    // A log's last line may be without its end.
    if (end.kind === "fault" && lines.length === 0) throw new Failure(`${path}: ${showFault(end.fault)}`);
    return lines.map((line) => `${line}\n`).join("");
  }

  /** Starts a program in a pod's container; its input and output are the stream. @throws Error naming the pod when it cannot be started */
  async run(pod: PodName, command: readonly string[]): Promise<PodStream> {
    const stream = new PodStream(`${pod.namespace}/${pod.name}`);
    try {
      const socket = await new Exec(this.#config).exec(
        pod.namespace,
        pod.name,
        pod.container,
        [...command],
        stream.stdout,
        stream.stderr,
        stream.stdin,
        false,
        (status) => stream.ended(status.status === "Success" ? undefined : (status.message ?? "it failed")),
      );
      stream.over(socket);
      return stream;
    } catch (error) {
      stream.destroy();
      throw new Error(`${pod.namespace}/${pod.name}: ${reasonOf(error)}`);
    }
  }

  close(): void {
    this.#close();
  }
}

/** The library's errors of a refused upgrade are events without words. */
function reasonOf(error: unknown): string {
  const told = messageOf(error);
  if (told !== "" && told !== "[object Object]") return told;
  const inner = (error as { readonly message?: unknown; readonly error?: unknown } | null)?.error;
  return inner === undefined ? "no program could be started in it" : messageOf(inner);
}

function loaded(place: ClusterPlace): KubeConfig {
  const config = new KubeConfig();
  const file = place.kubeconfig ?? defaultKubeconfig();
  if (place.kubeconfig !== undefined && !existsSync(file))
    throw new Failure(`--kubeconfig ${file}: there is no such file`);
  if (!existsSync(file) && process.env.KUBERNETES_SERVICE_HOST !== undefined) {
    config.loadFromCluster(); // a pod of the cluster: its service account
    return config;
  }
  if (!existsSync(file)) {
    throw new Failure(`no cluster is named: there is no ${file}; set KUBECONFIG, or give --kubeconfig FILE`);
  }
  try {
    // Without --kubeconfig the variable may name several files, which are merged as kubectl does.
    if (place.kubeconfig === undefined && process.env.KUBECONFIG) config.loadFromDefault();
    else config.loadFromFile(file);
  } catch (error) {
    throw new Failure(`${file} cannot be read: ${messageOf(error)}`);
  }
  if (place.context !== undefined) {
    const names = config.getContexts().map((context) => context.name);
    if (!names.includes(place.context))
      throw new Failure(`--context ${place.context}: ${file} has ${names.length === 0 ? "none" : listed(names)}`);
    config.setCurrentContext(place.context);
  }
  return config;
}
