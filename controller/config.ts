// Environment -> frozen configuration of the controller: every knob with name, default and reason. The only reader of the environment.
import { hostname } from "node:os";
import { defaultTrustDomain, parseTrustDomain, type TrustDomain } from "../agent/api/names.ts";
import { type HostPort, readEnv } from "../agent/base/env.ts";
import { type LogLevel, logLevels } from "../agent/base/log.ts";
import { err, type Result } from "../agent/base/result.ts";

const sources = ["folder", "kubernetes"] as const;

export interface Config {
  /** FAIRLEAD_SOURCE: where objects are read: folders of manifests, or the API server of a cluster. */
  readonly source: (typeof sources)[number];
  /** FAIRLEAD_KUBECONFIG: file that says how the API server is reached; without it the service account of our own pod. */
  readonly kubeconfig: string | undefined;
  /** FAIRLEAD_KUBE_CONTEXT: which context of the kubeconfig; without it its current one. */
  readonly kubeContext: string | undefined;
  /** FAIRLEAD_KUBE_PAGE_SIZE: objects in one page of a list; less memory in short, more requests. */
  readonly kubePageSize: number;
  /** FAIRLEAD_KUBE_WATCH_IDLE_MS: a watch without an event or bookmark for so long is opened anew; servers send bookmarks about once a minute. */
  readonly kubeWatchIdleMs: number;
  /** FAIRLEAD_KUBE_RESYNC_MS: how often everything is listed anew, should a watch have lost something; 0 for never. */
  readonly kubeResyncMs: number;
  /** FAIRLEAD_LEASE_NAMESPACE: where replicas elect the one that writes; without it the namespace of the kubeconfig or of our own pod. */
  readonly leaseNamespace: string | undefined;
  /** FAIRLEAD_LEASE_NAME: replicas of one control plane share it, those of another have another. */
  readonly leaseName: string;
  /** FAIRLEAD_LEASE_MS: whole seconds after which a lease that is not renewed may be taken. */
  readonly leaseMs: number;
  /** FAIRLEAD_LEASE_RENEW_MS: the holder that could not renew for so long stops writing; shorter than the lease, or two might write. */
  readonly leaseRenewMs: number;
  /** FAIRLEAD_LEASE_RETRY_MS: between two tries to renew or take it. */
  readonly leaseRetryMs: number;
  /** FAIRLEAD_MANIFESTS: folders of Kubernetes manifests, separated by ":". */
  readonly manifests: readonly string[];
  /** FAIRLEAD_LIVE_DIR: Pods with status, as a kubelet would report them. */
  readonly liveDir: string | undefined;
  /** FAIRLEAD_STATE_DIR: keys of the CA, tokens, given addresses; 0700. */
  readonly stateDir: string;
  /** FAIRLEAD_LISTEN: discovery and certificates for agents (gRPC). */
  readonly listen: HostPort;
  /** FAIRLEAD_HEALTH_LISTEN: health and metrics, plain HTTP. */
  readonly healthListen: HostPort;
  /** FAIRLEAD_ADMIN_LISTEN: admin over TLS with client certificates; "off" for none. */
  readonly adminListen: HostPort | undefined;
  /** FAIRLEAD_ADMIN_SOCKET: admin for root on this machine. */
  readonly adminSocket: string | undefined;
  /** FAIRLEAD_ADMIN_SAN_PREFIXES: identities that may use the admin endpoint over the network. */
  readonly adminSanPrefixes: readonly string[];
  /** FAIRLEAD_ADMIN_CLIENT_CA_FILE: roots of admin callers beside the mesh's own. */
  readonly adminClientCaFile: string | undefined;
  readonly trustDomain: TrustDomain;
  /** FAIRLEAD_SVID_TTL_MS: life of workload certificates. Short: revocation is expiry. */
  readonly svidTtlMs: number;
  /** FAIRLEAD_JWT_TTL_MS: life of JWT-SVIDs; nothing revokes them, and whoever gets one can show it. */
  readonly jwtTtlMs: number;
  /** FAIRLEAD_RENEW_AT: share of the life after which agents renew; at most 0.8 leaves time to retry. */
  readonly renewAt: number;
  /** FAIRLEAD_NODE_TTL_MS: life of node credentials. */
  readonly nodeTtlMs: number;
  /** FAIRLEAD_JOIN_TOKEN_TTL_MS: how long a join token may wait for its node. */
  readonly joinTokenTtlMs: number;
  /** FAIRLEAD_WRITE_CONCURRENCY: how many objects are written to the cluster at a time. */
  readonly writeConcurrency: number;
  /** FAIRLEAD_WRITE_REQUESTS_PER_SECOND: requests for writing that the API server gets at most, after a burst of twice as many; reading before writing counts too. */
  readonly writeRequestsPerSecond: number;
  /** FAIRLEAD_WRITE_BACKOFF_MS: pause after a write that failed; doubles with each failure. */
  readonly writeBackoffMs: number;
  /** FAIRLEAD_WRITE_BACKOFF_MAX_MS: longest pause after a write that failed. */
  readonly writeBackoffMaxMs: number;
  /** FAIRLEAD_WRITE_ATTEMPTS: so many failures on end, and an object is left alone until it changes or is reviewed. */
  readonly writeAttempts: number;
  /** FAIRLEAD_WRITE_REVIEW_MS: how often everything that is written is compared with what is there. */
  readonly writeReviewMs: number;
  /** FAIRLEAD_STATUS_SPACING_MS: the status of one object is written at most once in this time. */
  readonly statusSpacingMs: number;
  /** FAIRLEAD_ROOT_NAMESPACE: policies in it hold for the whole mesh (Istio's name for it by default). */
  readonly rootNamespace: string;
  /** FAIRLEAD_SERVER_NAMES: further names and addresses that agents call this controller by. */
  readonly serverNames: readonly string[];
  readonly caRootCertFile: string | undefined;
  readonly caRootKeyFile: string | undefined;
  readonly caIntermediateCertFile: string | undefined;
  readonly caIntermediateKeyFile: string | undefined;
  /** FAIRLEAD_CA_ROOT_PKCS12_FILE: root and key in one file, as /v1/ca/export gives it; its password in FAIRLEAD_CA_ROOT_PASSWORD_FILE. */
  readonly caRootPkcs12File: string | undefined;
  readonly caRootPasswordFile: string | undefined;
  /** FAIRLEAD_CA_SECRET: Secret in the controller's namespace where all replicas keep the CA; "off": in the state folder. Kubernetes only. */
  readonly caSecret: string | undefined;
  /** FAIRLEAD_CA_SUPPLIED_SECRET: Secret with tls.crt, tls.key and ca.crt (cert-manager's) of a CA to sign with; NAME or NAMESPACE/NAME. */
  readonly caSuppliedSecret: string | undefined;
  /** FAIRLEAD_AGENT_ACCOUNTS: service accounts whose pods are agents, each NAMESPACE/NAME. */
  readonly agentAccounts: readonly string[];
  /** FAIRLEAD_ISTIO_ACCOUNTS: service accounts whose pods are Istio's ztunnels, each NAMESPACE/NAME; none: Istio's protocols are not answered. */
  readonly istioAccounts: readonly string[];
  /** FAIRLEAD_TOKEN_CACHE_MS: how long the API server's word on an agent's token holds; a deleted agent may call for so long. */
  readonly tokenCacheMs: number;
  /** FAIRLEAD_PLACEMENT_WAIT_MS: how long a call waits for a pod that is not known here yet; then it is refused. */
  readonly placementWaitMs: number;
  /** FAIRLEAD_SETTLE_MS: quiet time before changed files are read; how long changes of a cluster are gathered. */
  readonly settleMs: number;
  /** FAIRLEAD_POLL_MS: how often folders are looked at without a notice of change. */
  readonly pollMs: number;
  /** FAIRLEAD_DRAIN_MS: how long open calls may go on at shutdown. */
  readonly drainMs: number;
  readonly logLevel: LogLevel;
}

const dayMs = 86_400_000;

/** Reads and checks everything; the error holds one line for each variable that is wrong. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Result<Config, readonly string[]> {
  const e = readEnv(env);
  const optional = (name: string): string | undefined => e.string(name, "") || undefined;
  const domain = parseTrustDomain(e.string("FAIRLEAD_TRUST_DOMAIN", defaultTrustDomain));
  if (!domain.ok) e.problem("FAIRLEAD_TRUST_DOMAIN", domain.error);
  const trustDomain = domain.ok ? domain.value : defaultTrustDomain;
  const source = e.oneOf("FAIRLEAD_SOURCE", sources, "folder");
  const manifests = e.list("FAIRLEAD_MANIFESTS", [], ":");
  if (source === "folder" && manifests.length === 0)
    e.problem(
      "FAIRLEAD_MANIFESTS",
      "is not set: name the folders of manifests, separated by ':', or set FAIRLEAD_SOURCE to kubernetes",
    );
  // Read from both, an object would have two owners.
  if (source === "kubernetes" && (manifests.length > 0 || optional("FAIRLEAD_LIVE_DIR") !== undefined))
    e.problem(
      manifests.length > 0 ? "FAIRLEAD_MANIFESTS" : "FAIRLEAD_LIVE_DIR",
      "is set, but FAIRLEAD_SOURCE is kubernetes: unset one of the two",
    );
  const caSecret = e.string("FAIRLEAD_CA_SECRET", "fairlead-ca");
  const hasAdmin = e.string("FAIRLEAD_ADMIN_LISTEN", "") !== "off";
  const config: Config = {
    source,
    kubeconfig: optional("FAIRLEAD_KUBECONFIG"),
    kubeContext: optional("FAIRLEAD_KUBE_CONTEXT"),
    kubePageSize: e.integer("FAIRLEAD_KUBE_PAGE_SIZE", 500, 1, 10_000),
    kubeWatchIdleMs: e.durationMs("FAIRLEAD_KUBE_WATCH_IDLE_MS", 120_000, 1000, 3_600_000),
    kubeResyncMs: e.durationMs("FAIRLEAD_KUBE_RESYNC_MS", 1_800_000, 0, 86_400_000),
    leaseNamespace: optional("FAIRLEAD_LEASE_NAMESPACE"),
    leaseName: e.string("FAIRLEAD_LEASE_NAME", "fairlead-controller"),
    leaseMs: e.durationMs("FAIRLEAD_LEASE_MS", 10_000, 2000, 600_000),
    leaseRenewMs: e.durationMs("FAIRLEAD_LEASE_RENEW_MS", 7_000, 1000, 600_000),
    leaseRetryMs: e.durationMs("FAIRLEAD_LEASE_RETRY_MS", 2_000, 100, 600_000),
    writeConcurrency: e.integer("FAIRLEAD_WRITE_CONCURRENCY", 4, 1, 64),
    writeRequestsPerSecond: e.integer("FAIRLEAD_WRITE_REQUESTS_PER_SECOND", 100, 1, 10_000),
    writeBackoffMs: e.durationMs("FAIRLEAD_WRITE_BACKOFF_MS", 250, 10, 60_000),
    writeBackoffMaxMs: e.durationMs("FAIRLEAD_WRITE_BACKOFF_MAX_MS", 60_000, 100, 3_600_000),
    writeAttempts: e.integer("FAIRLEAD_WRITE_ATTEMPTS", 15, 1, 1000),
    writeReviewMs: e.durationMs("FAIRLEAD_WRITE_REVIEW_MS", 600_000, 1000, 86_400_000),
    statusSpacingMs: e.durationMs("FAIRLEAD_STATUS_SPACING_MS", 1000, 0, 600_000),
    manifests,
    liveDir: optional("FAIRLEAD_LIVE_DIR"),
    stateDir: e.required("FAIRLEAD_STATE_DIR", "name a folder for the keys of the CA"),
    listen: e.hostPort("FAIRLEAD_LISTEN", "0.0.0.0:15012"),
    healthListen: e.hostPort("FAIRLEAD_HEALTH_LISTEN", "0.0.0.0:15014"),
    adminListen: hasAdmin ? e.hostPort("FAIRLEAD_ADMIN_LISTEN", "0.0.0.0:8443") : undefined,
    adminSocket: optional("FAIRLEAD_ADMIN_SOCKET"),
    adminSanPrefixes: e.list("FAIRLEAD_ADMIN_SAN_PREFIXES", [`spiffe://${trustDomain}/ns/fairlead-system/sa/`]),
    adminClientCaFile: optional("FAIRLEAD_ADMIN_CLIENT_CA_FILE"),
    trustDomain,
    svidTtlMs: e.durationMs("FAIRLEAD_SVID_TTL_MS", dayMs, 1000, 90 * dayMs),
    jwtTtlMs: e.durationMs("FAIRLEAD_JWT_TTL_MS", 300_000, 10_000, 3_600_000),
    renewAt: e.number("FAIRLEAD_RENEW_AT", 0.5, 0.1, 0.8),
    nodeTtlMs: e.durationMs("FAIRLEAD_NODE_TTL_MS", dayMs, 1000, 90 * dayMs),
    joinTokenTtlMs: e.durationMs("FAIRLEAD_JOIN_TOKEN_TTL_MS", 3_600_000, 1000, 7 * dayMs),
    rootNamespace: e.string("FAIRLEAD_ROOT_NAMESPACE", "istio-system"),
    serverNames: e.list("FAIRLEAD_SERVER_NAMES", []),
    caRootCertFile: optional("FAIRLEAD_CA_ROOT_CERT_FILE"),
    caRootKeyFile: optional("FAIRLEAD_CA_ROOT_KEY_FILE"),
    caIntermediateCertFile: optional("FAIRLEAD_CA_INTERMEDIATE_CERT_FILE"),
    caIntermediateKeyFile: optional("FAIRLEAD_CA_INTERMEDIATE_KEY_FILE"),
    caRootPkcs12File: optional("FAIRLEAD_CA_ROOT_PKCS12_FILE"),
    caRootPasswordFile: optional("FAIRLEAD_CA_ROOT_PASSWORD_FILE"),
    caSecret: source === "kubernetes" && caSecret !== "off" ? caSecret : undefined,
    caSuppliedSecret: optional("FAIRLEAD_CA_SUPPLIED_SECRET"),
    agentAccounts: e.list("FAIRLEAD_AGENT_ACCOUNTS", ["fairlead-system/fairlead-agent"]),
    istioAccounts: e.list("FAIRLEAD_ISTIO_ACCOUNTS", []),
    placementWaitMs: e.durationMs("FAIRLEAD_PLACEMENT_WAIT_MS", 2_000, 0, 60_000),
    tokenCacheMs: e.durationMs("FAIRLEAD_TOKEN_CACHE_MS", 10_000, 0, 60_000),
    settleMs: e.durationMs("FAIRLEAD_SETTLE_MS", 30, 0, 60_000),
    pollMs: e.durationMs("FAIRLEAD_POLL_MS", 2000, 50, 600_000),
    drainMs: e.durationMs("FAIRLEAD_DRAIN_MS", 2000, 0, 600_000),
    logLevel: e.oneOf<LogLevel>("FAIRLEAD_LOG_LEVEL", logLevels, "info"),
  };
  const accounts = { FAIRLEAD_AGENT_ACCOUNTS: config.agentAccounts, FAIRLEAD_ISTIO_ACCOUNTS: config.istioAccounts };
  for (const [name, list] of Object.entries(accounts))
    for (const account of list)
      if (!/^[a-z0-9.-]+[/][a-z0-9.-]+$/.test(account))
        e.problem(name, `"${account}" is not NAMESPACE/NAME of a service account`);
  if (config.caSuppliedSecret !== undefined && source !== "kubernetes")
    e.problem("FAIRLEAD_CA_SUPPLIED_SECRET", "is set, but FAIRLEAD_SOURCE is not kubernetes: name files instead");
  if (config.caSuppliedSecret !== undefined && (config.caRootCertFile ?? config.caRootPkcs12File) !== undefined)
    e.problem("FAIRLEAD_CA_SUPPLIED_SECRET", "is set, and files of a CA too: unset one of them");
  const { caRootCertFile, caRootKeyFile, caIntermediateCertFile, caIntermediateKeyFile } = config;
  if ((caIntermediateCertFile === undefined) !== (caIntermediateKeyFile === undefined)) {
    e.problem(
      "FAIRLEAD_CA_INTERMEDIATE_CERT_FILE",
      "goes together with FAIRLEAD_CA_INTERMEDIATE_KEY_FILE: set both or none",
    );
  }
  if (caRootCertFile === undefined && (caRootKeyFile ?? caIntermediateCertFile) !== undefined) {
    e.problem("FAIRLEAD_CA_ROOT_CERT_FILE", "is not set, though other files of the CA are");
  }
  if (caRootCertFile !== undefined && caRootKeyFile === undefined && caIntermediateCertFile === undefined) {
    e.problem("FAIRLEAD_CA_ROOT_KEY_FILE", "is not set: give the root's key, or an intermediate with its key");
  }
  if (config.leaseMs % 1000 !== 0)
    e.problem("FAIRLEAD_LEASE_MS", "is no multiple of 1000: a Lease counts whole seconds");
  if (config.leaseRenewMs >= config.leaseMs)
    e.problem("FAIRLEAD_LEASE_RENEW_MS", `is not below FAIRLEAD_LEASE_MS (${config.leaseMs}): make it smaller`);
  if (config.leaseRetryMs * 2 > config.leaseRenewMs)
    e.problem(
      "FAIRLEAD_LEASE_RETRY_MS",
      `is over half of FAIRLEAD_LEASE_RENEW_MS (${config.leaseRenewMs}): make it smaller`,
    );
  const result = e.finish(config);
  return result.ok ? { ok: true, value: Object.freeze(result.value) } : err(result.error);
}

/** The name of this machine, one of the names of the server's certificate. */
export const machineName = (): string => hostname();
