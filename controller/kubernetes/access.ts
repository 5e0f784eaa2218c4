// How the API server is reached: from a kubeconfig, or from the service account of the pod that we run in. Of the controller the only
// file that imports @kubernetes/client-node, which reads credentials of every sort (files, plugins, OIDC) and tokens anew as they rotate.
// It costs about 80 MB and 0.7 s to load, so whoever needs no cluster must not import this file.
import { existsSync } from "node:fs";
import type { Agent, RequestOptions } from "node:https";
import { KubeConfig } from "@kubernetes/client-node";
import { messageOf } from "../../agent/base/log.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { type ApiAccess, Connections } from "../../agent/kubernetes/access.ts";

export interface AccessOptions {
  /** undefined: the service account of the pod. */
  readonly kubeconfig: string | undefined;
  /** undefined: the kubeconfig's current one. */
  readonly context: string | undefined;
  /** Where a pod finds its service account; tests have one of their own. */
  readonly serviceAccountDir?: string;
}

const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount";

/** The error names the variable and what to do. */
export function openAccess(options: AccessOptions): Result<ApiAccess, string> {
  const config = new KubeConfig();
  const root = options.serviceAccountDir ?? serviceAccountDir;
  if (options.kubeconfig === undefined) {
    if (!existsSync(`${root}/token`))
      return err(
        "FAIRLEAD_KUBECONFIG: is not set, and this is no pod with a service account: name a kubeconfig, or run in a cluster",
      );
    config.loadFromCluster(root === serviceAccountDir ? "" : root.slice(0, -serviceAccountDir.length));
  } else {
    try {
      config.loadFromFile(options.kubeconfig);
    } catch (error) {
      return err(`FAIRLEAD_KUBECONFIG: ${options.kubeconfig} cannot be read: ${messageOf(error)}`);
    }
    if (options.context !== undefined) {
      const names = config.getContexts().map((context) => context.name);
      if (!names.includes(options.context))
        return err(`FAIRLEAD_KUBE_CONTEXT: "${options.context}" is none of ${names.join(", ") || "no contexts"}`);
      config.setCurrentContext(options.context);
    }
  }
  const file = options.kubeconfig === undefined ? "KUBERNETES_SERVICE_HOST" : "FAIRLEAD_KUBECONFIG";
  return accessOf(config, { file, context: "FAIRLEAD_KUBE_CONTEXT" });
}

/** What a kubeconfig's chosen context says. `named`: by which settings the user names file and context, for errors. */
export function accessOf(
  config: KubeConfig,
  named: { readonly file: string; readonly context: string },
): Result<ApiAccess, string> {
  const variable = named.file;
  const cluster = config.getCurrentCluster();
  const context = config.getContextObject(config.getCurrentContext());
  if (cluster === null)
    return err(`${variable}: no cluster is chosen: set current-context, or ${named.context} to one of its contexts`);
  const server = URL.parse(cluster.server);
  if (server === null || !/^https?:$/.test(server.protocol))
    return err(`${variable}: the server "${cluster.server}" is not an address: write https://HOST:PORT`);
  if (server.protocol === "http:" && !cluster.skipTLSVerify)
    return err(
      `${variable}: the server ${server.origin} is not TLS: use https, or allow it with insecure-skip-tls-verify: true`,
    );
  const connections = new Connections(server.protocol === "https:");
  return ok({
    server,
    namespace: context?.namespace,
    async options() {
      const given: RequestOptions = {};
      await config.applyToHTTPSOptions(given);
      const headers = Object.fromEntries(
        Object.entries(given.headers ?? {}).map(([name, value]) => [name, String(value).trim()]),
      );
      if (typeof given.auth === "string") headers.Authorization = `Basic ${Buffer.from(given.auth).toString("base64")}`;
      // An agent of the library's own makes a connection for each request; only proxies need it.
      return { headers, agent: cluster.proxyUrl ? (given.agent as Agent) : connections.of(given) };
    },
    close: () => connections.close(),
  });
}
