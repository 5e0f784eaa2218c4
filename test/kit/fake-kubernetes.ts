// An API server as far as mirrors and leases need one: real HTTP, versions, history, watches with bookmarks, pages, conflicts; and
// everything that can go wrong with one, on demand.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { ApiAccess } from "../../agent/kubernetes/access.ts";

// biome-ignore lint/suspicious/noExplicitAny: objects of any kind, as tests write them
type Any = any;
export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage["headers"];
}
/** What becomes of a request instead of its answer. */
export type Mishap =
  | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: unknown }
  /** `hang`: never a head; `reset`: cut at once; `text`: this as the body of a 200; `cut`: half an answer; `stall`: half, then nothing. */
  | "hang"
  | "reset"
  | "cut"
  | "stall"
  | { readonly text: string };

interface Watcher {
  readonly path: string;
  readonly response: ServerResponse;
  isFrozen: boolean;
}
interface Event {
  readonly version: number;
  readonly path: string;
  readonly type: string;
  readonly object: Any;
}
const keyOf = (object: Any): string => `${object.metadata.namespace ?? ""}/${object.metadata.name}`;

export class FakeKubernetes implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** The other end's port of each request. */
  readonly ports: (number | undefined)[] = [];
  /** Asked of each request; what it answers happens. */
  mishap: (asked: Asked) => Mishap | undefined = () => undefined;
  /** Collections that are served; undefined: all. */
  served: Set<string> | undefined;
  readonly #server = createServer((request, response) => {
    // Who goes away in the middle of a request is not answered.
    this.#handle(request, response).catch(() => response.destroy());
  });
  readonly #collections = new Map<string, Map<string, Any>>();
  readonly #watchers = new Set<Watcher>();
  readonly #pages = new Map<string, { readonly items: readonly Any[]; readonly version: string }>();
  #events: Event[] = [];
  #version = 100;
  #oldest = 0;
  #uid = 0;
  #token = 0;
  #isAway = false;
  url = "";

  static async start(): Promise<FakeKubernetes> {
    const fake = new FakeKubernetes();
    fake.#server.on("connection", (socket) => {
      if (fake.#isAway) socket.destroy();
    });
    await new Promise<void>((resolve) => fake.#server.listen(0, "127.0.0.1", resolve));
    fake.url = `http://127.0.0.1:${(fake.#server.address() as AddressInfo).port}`;
    return fake;
  }
  /** Goes away, with all its connections. Its port is kept, or somebody else might have it when it comes back. */
  leave(): void {
    this.#isAway = true;
    this.#server.closeAllConnections();
    this.#watchers.clear();
  }
  comeBack(): void {
    this.#isAway = false;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.leave();
    await closed;
  }
  /** Access without TLS or credentials. */
  access(): ApiAccess {
    const server = new URL(this.url);
    return { server, namespace: undefined, options: async () => ({ headers: {} }), close: () => {} };
  }
  kubeconfig(): string {
    return JSON.stringify({
      "current-context": "fake",
      clusters: [{ name: "fake", cluster: { server: this.url, "insecure-skip-tls-verify": true } }],
      contexts: [{ name: "fake", context: { cluster: "fake", user: "fake" } }],
      users: [{ name: "fake", user: { token: "secret" } }],
    });
  }

  put(path: string, object: Any): Any {
    const key = keyOf(object);
    const collection = this.#of(path);
    const before = collection.get(key);
    const version = ++this.#version;
    const stored = {
      ...object,
      metadata: {
        ...object.metadata,
        uid: before?.metadata.uid ?? `uid-${++this.#uid}`,
        resourceVersion: `${version}`,
        creationTimestamp:
          before?.metadata.creationTimestamp ?? new Date(1_700_000_000_000 + version * 1000).toISOString(),
      },
    };
    collection.set(key, stored);
    this.#emit({ version, path, type: before === undefined ? "ADDED" : "MODIFIED", object: stored });
    return stored;
  }
  remove(path: string, namespace: string, name: string): void {
    const key = `${namespace}/${name}`;
    const collection = this.#of(path);
    const before = collection.get(key);
    if (before === undefined) return;
    collection.delete(key);
    const version = ++this.#version;
    const object = { ...before, metadata: { ...before.metadata, resourceVersion: `${version}` } };
    this.#emit({ version, path, type: "DELETED", object });
  }
  get(path: string, namespace: string, name: string): Any {
    return this.#of(path).get(`${namespace}/${name}`);
  }
  all(path: string): readonly Any[] {
    return [...this.#of(path).values()];
  }
  /** Forgets history: whoever asks for something from before gets 410. */
  compact(): void {
    this.#oldest = this.#version;
    this.#events = [];
  }
  /** Pages that were begun cannot be continued. */
  expirePages(): void {
    this.#pages.clear();
  }
  /** As after a restore from a backup: versions begin again below those that are known outside. */
  restore(): void {
    this.#version = 10;
    this.#oldest = 0;
    this.#events = [];
    for (const collection of this.#collections.values())
      for (const [key, object] of collection)
        collection.set(key, { ...object, metadata: { ...object.metadata, resourceVersion: `${++this.#version}` } });
  }
  bookmark(path?: string): void {
    const object = { kind: "Bookmark", metadata: { resourceVersion: `${this.#version}` } };
    this.#each(path, ({ response }) => response.write(`${JSON.stringify({ type: "BOOKMARK", object })}\n`));
  }
  watching(path: string): number {
    return [...this.#watchers].filter((watcher) => watcher.path === path && !watcher.isFrozen).length;
  }
  /** Ends watches in order, as a server does at their time. */
  endWatches(path?: string): void {
    this.#each(path, ({ response }) => response.end());
  }
  /** Cuts them in the middle. */
  cutWatches(path?: string): void {
    this.#each(path, ({ response }) => response.socket?.destroy());
  }
  /** They stay open and say nothing more. */
  freezeWatches(path?: string): void {
    this.#each(path, (watcher) => {
      watcher.isFrozen = true;
    });
  }
  /** Sends this on them. */
  say(text: string, path?: string): void {
    this.#each(path, ({ response }) => response.write(text));
  }
  /** An ERROR event, as for a version that has expired while it was watched. */
  fail(code: number, path?: string): void {
    const object = {
      kind: "Status",
      code,
      reason: code === 410 ? "Expired" : "InternalError",
      message: `error ${code}`,
    };
    this.say(`${JSON.stringify({ type: "ERROR", object })}\n`, path);
    this.endWatches(path);
  }
  count(method: string, path: string, what: "list" | "watch" | "any" = "any"): number {
    return this.asked.filter(
      (a) => a.method === method && a.path === path && (what === "any" || a.query.has("watch") === (what === "watch")),
    ).length;
  }

  #of(path: string): Map<string, Any> {
    let collection = this.#collections.get(path);
    if (collection === undefined) {
      collection = new Map();
      this.#collections.set(path, collection);
    }
    return collection;
  }
  #each(path: string | undefined, act: (watcher: Watcher) => void): void {
    for (const watcher of [...this.#watchers]) if ((path ?? watcher.path) === watcher.path) act(watcher);
  }
  #emit(event: Event): void {
    this.#events.push(event);
    const line = lineOf(event);
    this.#each(event.path, (watcher) => {
      if (!watcher.isFrozen) watcher.response.write(line);
    });
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => {});
    const url = new URL(request.url ?? "/", "http://fake");
    const asked = {
      method: request.method ?? "",
      path: url.pathname,
      query: url.searchParams,
      headers: request.headers,
    };
    this.asked.push(asked);
    this.ports.push(request.socket.remotePort);
    let body = "";
    for await (const chunk of request) body += chunk;
    const mishap = this.mishap(asked);
    if (mishap !== undefined) {
      meet(mishap, response);
      return;
    }
    this.#answer(asked, body, response);
  }

  #answer(asked: Asked, body: string, response: ServerResponse): ServerResponse {
    const [path, name] = splitPath(asked.path);
    if (this.served !== undefined && !this.served.has(path)) return status(response, 404, "NotFound", "not served");
    if (asked.query.has("watch")) return this.#watch(path, asked.query, response);
    const namespace = /\/namespaces\/([^/]+)\/[^/]+$/.exec(path)?.[1] ?? "";
    const collection = path.replace(/\/namespaces\/[^/]+(?=\/[^/]+$)/, "");
    if (asked.method === "GET" && name === undefined) return this.#list(collection, asked.query, response);
    const object = body === "" ? undefined : JSON.parse(body);
    const before = this.get(collection, namespace, name ?? object?.metadata?.name);
    if (asked.method === "POST") {
      if (before !== undefined) return status(response, 409, "AlreadyExists", "it exists");
      return json(response, 201, this.put(collection, { ...object, metadata: { ...object.metadata, namespace } }));
    }
    if (before === undefined) return status(response, 404, "NotFound", "there is none");
    if (asked.method === "GET") return json(response, 200, before);
    if (asked.method !== "PUT") return status(response, 405, "MethodNotAllowed", "not here");
    if (object.metadata.resourceVersion !== before.metadata.resourceVersion)
      return status(response, 409, "Conflict", "the object has been modified");
    return json(response, 200, this.put(collection, object));
  }

  #list(path: string, query: URLSearchParams, response: ServerResponse): ServerResponse {
    const wanted = Number(query.get("resourceVersion") ?? 0);
    if (wanted > this.#version) return status(response, 504, "Timeout", "Too large resource version");
    const token = query.get("continue");
    const begun = token === null ? undefined : this.#pages.get(token);
    if (token !== null && begun === undefined) return status(response, 410, "Expired", "the continue token is too old");
    const items = begun?.items ?? [...this.#of(path).values()];
    const version = begun?.version ?? `${this.#version}`;
    const limit = Number(query.get("limit") ?? 0) || items.length;
    const rest = items.slice(limit);
    let next: string | undefined;
    if (rest.length > 0) {
      next = `page-${++this.#token}`;
      this.#pages.set(next, { items: rest, version });
    }
    return json(response, 200, {
      kind: "List",
      metadata: { resourceVersion: version, ...(next === undefined ? {} : { continue: next }) },
      // As Go has it.
      items: items.length === 0 ? null : items.slice(0, limit),
    });
  }

  #watch(path: string, query: URLSearchParams, response: ServerResponse): ServerResponse {
    const from = Number(query.get("resourceVersion"));
    if (from > this.#version) return status(response, 504, "Timeout", "Too large resource version");
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    if (from < this.#oldest) {
      const object = { kind: "Status", code: 410, reason: "Expired", message: "too old resource version" };
      return response.end(`${JSON.stringify({ type: "ERROR", object })}\n`);
    }
    if (response.destroyed) return response;
    for (const event of this.#events) if (event.path === path && event.version > from) response.write(lineOf(event));
    const watcher: Watcher = { path, response, isFrozen: false };
    this.#watchers.add(watcher);
    return response.on("close", () => this.#watchers.delete(watcher));
  }
}

const lineOf = ({ type, object }: Event): string => `${JSON.stringify({ type, object })}\n`;
/** "/apis/g/v1/namespaces/ns/things/x" -> collection and name. */
function splitPath(path: string): readonly [string, string | undefined] {
  const parts = path.split("/");
  const head = parts[1] === "api" ? 3 : 4;
  const isNamespaced = parts[head] === "namespaces" && parts.length > head + 2;
  const collection = isNamespaced ? head + 3 : head + 1;
  return [parts.slice(0, collection).join("/"), parts[collection]];
}
function json(response: ServerResponse, code: number, value: unknown): ServerResponse {
  response.writeHead(code, { "content-type": "application/json" });
  return response.end(JSON.stringify(value));
}
const status = (response: ServerResponse, code: number, reason: string, message: string): ServerResponse =>
  json(response, code, { kind: "Status", code, reason, message });

function meet(mishap: Mishap, response: ServerResponse): void {
  if (mishap === "hang") return;
  if (mishap === "reset") {
    response.socket?.destroy();
    return;
  }
  if (mishap === "cut" || mishap === "stall") {
    response.writeHead(200, { "content-type": "application/json" });
    response.write('{"kind":"List","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"ha', () => {
      if (mishap === "cut") response.socket?.destroy();
    });
    return;
  }
  if ("text" in mishap) {
    response.writeHead(200);
    response.end(mishap.text);
    return;
  }
  response.writeHead(mishap.status, { "content-type": "application/json", ...mishap.headers });
  response.end(
    JSON.stringify(mishap.body ?? { kind: "Status", code: mishap.status, message: `error ${mishap.status}` }),
  );
}

/** A definition of a kind, established and served. */
export const crd = (
  group: string,
  plural: string,
  versions: readonly string[] = ["v1"],
  isEstablished = true,
): Any => ({
  kind: "CustomResourceDefinition",
  metadata: { name: `${plural}.${group}` },
  spec: { group, names: { plural }, versions: versions.map((name) => ({ name, served: true })) },
  status: { conditions: [{ type: "Established", status: isEstablished ? "True" : "False" }] },
});
export const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
