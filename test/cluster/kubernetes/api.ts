// The few words of the Kubernetes API that bringing a cluster up and looking at it needs, over HTTPS with a client certificate.
import { Agent, request } from "node:https";
import type { KeyPair } from "./pki.ts";

export interface ApiPlace {
  /** e.g. "https://10.110.255.1:6443" */
  readonly server: string;
  readonly caPem: string;
  readonly client: KeyPair;
}

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

/** A refusal by the server. */
export class ApiError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

interface Resource {
  readonly plural: string;
  readonly namespaced: boolean;
}

const TIMEOUT_MS = 30_000;

export class KubeApi {
  readonly server: string;
  readonly #agent: Agent;
  readonly #resources = new Map<string, Resource>();

  constructor(place: ApiPlace) {
    this.server = place.server;
    this.#agent = new Agent({
      ca: place.caPem,
      cert: place.client.certPem,
      key: place.client.keyPem,
      keepAlive: true,
      maxSockets: 4,
    });
  }

  /** Ends idle connections; the object is not used any more. */
  close(): void {
    this.#agent.destroy();
  }

  /**
   * Sends one request; objects go as JSON, which is YAML too.
   * @returns the body as text
   * @throws ApiError with the server's own message for a status of 400 and above; Error when it cannot be reached
   */
  call(
    method: string,
    path: string,
    body?: unknown,
    contentType = "application/json",
    accept = "application/json",
  ): Promise<string> {
    return new Promise((resolve, reject) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const headers = {
        accept,
        ...(text === undefined ? {} : { "content-type": contentType, "content-length": Buffer.byteLength(text) }),
      };
      const asked = request(
        new URL(path, this.server),
        { method, agent: this.#agent, headers, timeout: TIMEOUT_MS },
        (answer) => {
          const parts: Buffer[] = [];
          answer.on("data", (b: Buffer) => parts.push(b));
          answer.on("error", reject);
          answer.on("end", () => {
            const said = Buffer.concat(parts).toString();
            const status = answer.statusCode ?? 0;
            if (status < 400) resolve(said);
            else reject(new ApiError(status, `${method} ${path}: ${status} ${messageOf(said)}`));
          });
        },
      );
      asked.on("timeout", () => asked.destroy(new Error(`${method} ${path}: no answer within ${TIMEOUT_MS / 1000} s`)));
      asked.on("error", reject);
      asked.end(text);
    });
  }

  async get<T>(path: string): Promise<T> {
    return JSON.parse(await this.call("GET", path)) as T;
  }

  /** Whether the server says that it is ready. */
  async ready(): Promise<boolean> {
    return (await this.call("GET", "/readyz")) === "ok";
  }

  /** Server-side apply, over whoever set the fields before. @returns the object as it is now */
  async apply(object: KubeObject): Promise<KubeObject> {
    const path = `${await this.pathOf(object)}?fieldManager=fairlead-cluster&force=true`;
    return JSON.parse(await this.call("PATCH", path, object, "application/apply-patch+yaml")) as KubeObject;
  }

  /** Path of an object, from its kind and names; what a kind is called in paths is asked of the server. */
  async pathOf(object: KubeObject): Promise<string> {
    const root = object.apiVersion.includes("/") ? `/apis/${object.apiVersion}` : `/api/${object.apiVersion}`;
    const { plural, namespaced } = await this.#resource(root, object.kind);
    const { name, namespace } = object.metadata;
    return `${root}/${namespaced ? `namespaces/${namespace ?? "default"}/` : ""}${plural}/${name}`;
  }

  async #resource(root: string, kind: string): Promise<Resource> {
    const key = `${root}/${kind}`;
    const known = this.#resources.get(key);
    if (known !== undefined) return known;
    const list = await this.get<{ resources: readonly { name: string; kind: string; namespaced: boolean }[] }>(root);
    const found = list.resources.find((r) => r.kind === kind && !r.name.includes("/"));
    if (found === undefined) throw new Error(`the server has no kind ${kind} in ${root}`);
    const resource = { plural: found.name, namespaced: found.namespaced };
    this.#resources.set(key, resource);
    return resource;
  }
}

function messageOf(text: string): string {
  try {
    return String((JSON.parse(text) as { message?: unknown }).message ?? text);
  } catch {
    // A server that is not ready lists every check; those that fail say why.
    const failing = text.split("\n").filter((line) => line.startsWith("[-]"));
    return (failing.length > 0 ? failing.join(" ") : text).slice(0, 300);
  }
}
