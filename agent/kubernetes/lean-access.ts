// How an agent reaches the API server: by the service account of its pod, or by a kubeconfig of the plain sort (tokens, certificates).
// The client library, which knows every sort of credential, would cost each node 80 MB.
import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { messageOf } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import { type ApiAccess, Connections } from "./access.ts";

export interface LeanAccessOptions {
  /** "": the service account of the pod. */
  readonly kubeconfig: string;
  /** KUBERNETES_SERVICE_HOST and _PORT, as every pod has them. */
  readonly service: { readonly host: string; readonly port: string };
  /** Where a pod finds its service account. */
  readonly serviceAccountDir: string;
}

/** The error names the variable or field and what to do. */
export async function openLeanAccess(options: LeanAccessOptions): Promise<Result<ApiAccess, string>> {
  if (options.kubeconfig !== "") return fromKubeconfig(options.kubeconfig);
  const { host, port } = options.service;
  const dir = options.serviceAccountDir;
  if (host === "" || !existsSync(join(dir, "token")))
    return err(
      "FAIRLEAD_KUBECONFIG: is not set, and this is no pod with a service account: name a kubeconfig, or run in a cluster",
    );
  const server = URL.parse(`https://${host.includes(":") ? `[${host}]` : host}:${port || "443"}`);
  if (server === null) return err(`KUBERNETES_SERVICE_HOST: "${host}" is not an address`);
  const namespace = existsSync(join(dir, "namespace"))
    ? readFileSync(join(dir, "namespace"), "utf8").trim()
    : undefined;
  // Both files rotate: they are read for each request, of which there are few.
  return ok(
    access(server, namespace, {
      ca: { file: join(dir, "ca.crt") },
      token: { file: join(dir, "token") },
    }),
  );
}

/** Text, or the file that has it. */
type Source = { readonly file: string } | { readonly text: string };
interface Credentials {
  readonly ca?: Source | undefined;
  readonly token?: Source | undefined;
  readonly cert?: Source | undefined;
  readonly key?: Source | undefined;
  readonly serverName?: string | undefined;
  readonly isUnverified?: boolean;
}

function access(server: URL, namespace: string | undefined, from: Credentials): ApiAccess {
  const connections = new Connections(server.protocol === "https:");
  return {
    server,
    namespace,
    async options() {
      const [ca, token, cert, key] = await Promise.all([from.ca, from.token, from.cert, from.key].map(textOf));
      const tls = { ca, cert, key, servername: from.serverName, rejectUnauthorized: from.isUnverified !== true };
      const headers = token === undefined ? {} : { Authorization: `Bearer ${token.trim()}` };
      return { headers, agent: connections.of(tls) };
    },
    close: () => connections.close(),
  };
}
const textOf = async (source: Source | undefined): Promise<string | undefined> =>
  source === undefined ? undefined : "text" in source ? source.text : readFile(source.file, "utf8");

type Fields = Readonly<Record<string, unknown>>;
const clusterFields = [
  "server",
  "certificate-authority",
  "certificate-authority-data",
  "insecure-skip-tls-verify",
  "tls-server-name",
];
const userFields = [
  "token",
  "tokenFile",
  "client-certificate",
  "client-certificate-data",
  "client-key",
  "client-key-data",
];

async function fromKubeconfig(path: string): Promise<Result<ApiAccess, string>> {
  const bad = (message: string): Result<never, string> => err(`FAIRLEAD_KUBECONFIG: ${path}: ${message}`);
  let config: Fields;
  try {
    // Loaded here only: an agent in a pod never needs it.
    const { parse } = await import("yaml");
    config = fieldsOf(parse(readFileSync(path, "utf8")));
  } catch (error) {
    return bad(messageOf(error));
  }
  const named = (list: string, part: string, name: unknown): Fields | undefined => {
    const entries = Array.isArray(config[list]) ? config[list].map(fieldsOf) : [];
    const found = entries.find((entry) => entry.name === name);
    return found === undefined ? undefined : fieldsOf(found[part]);
  };
  const context = named("contexts", "context", config["current-context"]);
  if (context === undefined) return bad("current-context: names none of contexts");
  const cluster = named("clusters", "cluster", context.cluster);
  if (cluster === undefined) return bad(`contexts: the cluster "${String(context.cluster)}" is none of clusters`);
  const user = named("users", "user", context.user) ?? {};
  for (const [fields, known, where] of [
    [cluster, clusterFields, "clusters"],
    [user, userFields, "users"],
  ] as const)
    for (const field of Object.keys(fields))
      if (!known.includes(field)) return bad(`${where}: "${field}" is not known to the agent: use ${known.join(", ")}`);
  const server = typeof cluster.server === "string" ? URL.parse(cluster.server) : null;
  if (server === null || !/^https?:$/.test(server.protocol)) return bad("clusters: server is not https://HOST:PORT");
  const isUnverified = cluster["insecure-skip-tls-verify"] === true;
  if (server.protocol === "http:" && !isUnverified)
    return bad("clusters: server is not TLS: use https, or allow it with insecure-skip-tls-verify: true");
  const source = (fields: Fields, file: string): Source | undefined => {
    const data = fields[`${file}-data`];
    if (typeof data === "string") return { text: Buffer.from(data, "base64").toString("utf8") };
    const named = fields[file];
    return typeof named === "string" ? { file: named.startsWith("/") ? named : join(dirname(path), named) } : undefined;
  };
  const { namespace } = context;
  return ok(
    access(server, typeof namespace === "string" ? namespace : undefined, {
      ca: source(cluster, "certificate-authority"),
      token: typeof user.token === "string" ? { text: user.token } : source(user, "tokenFile"),
      cert: source(user, "client-certificate"),
      key: source(user, "client-key"),
      serverName: typeof cluster["tls-server-name"] === "string" ? cluster["tls-server-name"] : undefined,
      isUnverified,
    }),
  );
}

const fieldsOf = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
