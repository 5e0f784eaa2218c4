// The source that the configuration names, made but not started.
import { type Clock, systemBusyMs } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { type ApiClient, createApiClient } from "../../agent/kubernetes/client.ts";
import type { Config } from "../config.ts";
import type { KubernetesMetrics } from "../report/kubernetes-metrics.ts";
import { createFolderSource } from "../sources/folder.ts";
import { createKubernetesSource } from "../sources/kubernetes/source.ts";
import type { Source, SourceSink } from "../sources/types.ts";

export interface OpenedApi {
  readonly api: ApiClient;
  /** Of the context or of our own pod. */
  readonly namespace: string | undefined;
}

/** Where our own objects are: the Lease, the CA. */
export const ownNamespace = (config: Config, opened: OpenedApi): string =>
  config.leaseNamespace ?? opened.namespace ?? "fairlead-system";

/** @throws Error, one line for the operator, when no API server is named or its credentials cannot be read */
export async function openApi(config: Config, clock: Clock): Promise<OpenedApi> {
  // Loaded only by whoever needs it: the client library takes most of a second and tens of megabytes.
  const { openAccess } = await import("../kubernetes/access.ts");
  const access = openAccess({ kubeconfig: config.kubeconfig, context: config.kubeContext });
  if (!access.ok) throw new Error(access.error);
  return { api: createApiClient(access.value, clock), namespace: access.value.namespace };
}

/** `opened` and `meter` are there when the source is Kubernetes. */
export function openSource(
  config: Config,
  opened: OpenedApi | undefined,
  sink: SourceSink,
  meter: KubernetesMetrics | undefined,
  clock: Clock,
  log: Logger,
): Source {
  if (opened === undefined || meter === undefined) {
    const { manifests: folders, liveDir, settleMs, pollMs } = config;
    return createFolderSource({ folders, liveDir, settleMs, pollMs }, sink, clock, log);
  }
  return createKubernetesSource(
    {
      gatherMs: config.settleMs,
      busyMs: systemBusyMs,
      pageSize: config.kubePageSize,
      watchIdleMs: config.kubeWatchIdleMs,
      // As client libraries do: connections move between API servers in the end.
      watchMs: 300_000,
      resyncMs: config.kubeResyncMs,
      backoff: { baseMs: 250, maxMs: 5_000 },
    },
    { api: opened.api, sink, clock, random: systemRandom, log, meter },
  );
}
