// Environment -> frozen Config: name, default and reason of every knob. The only reader of the environment. The admin page
// prints all of it; none of it is secret (tokens and keys are files, and only their paths stand here).
import { availableParallelism, hostname } from "node:os";
import { join } from "node:path";
import { type NodeName, parseNodeName, parseTrustDomain, type TrustDomain } from "./api/names.ts";
import { type HostPort, parseHostPort, readEnv } from "./base/env.ts";
import { logLevels } from "./base/log.ts";
import { err, ok, type Result } from "./base/result.ts";
import { madeHeaders } from "./decide/trace/request-trace.ts";
import { parseFlag, parseStatus } from "./report/request-filter.ts";

export type Config = ReturnType<typeof collect>;

/** Every problem is reported at once, each with the variable's name. */
export function readConfig(
  environment: Readonly<Record<string, string | undefined>>,
  projectDir: string,
): Result<Config, readonly string[]> {
  const env = readEnv(environment);
  return env.finish(Object.freeze(collect(env, projectDir)));
}

function collect(env: ReturnType<typeof readEnv>, projectDir: string) {
  const path = (name: string, fallback: string): string => env.string(name, fallback);
  const named = <T>(name: string, parse: (text: string) => Result<T, string>, fallback: string): T => {
    const parsed = parse(env.string(name, fallback));
    if (parsed.ok) return parsed.value;
    env.problem(name, parsed.error);
    return fallback as T;
  };
  const range = (name: string, low: number, high: number): readonly [number, number] => {
    const match = /^([0-9]{1,5})-([0-9]{1,5})$/.exec(env.string(name, `${low}-${high}`));
    const [from, to] = [Number(match?.[1]), Number(match?.[2])];
    if (match !== null && from >= 1024 && to <= 65535 && from < to) return [from, to];
    env.problem(name, `"${env.string(name, "")}" is not a port range (as 10000-19999, ports 1024 to 65535)`);
    return [low, high];
  };
  /** Comma-separated; each problem names its word. */
  const list = <T>(name: string, parse: (text: string) => Result<T, string>, fallback: string): readonly T[] =>
    env.list(name, fallback === "" ? [] : [fallback]).flatMap((text) => {
      const parsed = parse(text);
      if (parsed.ok) return [parsed.value];
      env.problem(name, parsed.error);
      return [];
    });
  /** The same out of a few words; "none" alone is none of them. */
  const words = <T extends string>(name: string, known: readonly T[], fallback: readonly T[]): readonly T[] => {
    const given = env.list(name, fallback);
    if (given.length === 1 && given[0] === "none") return [];
    for (const word of given)
      if (!(known as readonly string[]).includes(word))
        env.problem(name, `"${word}" is none of ${known.join(", ")}; none for nothing`);
    return known.filter((word) => given.includes(word));
  };
  const hostPort = (text: string): Result<HostPort, string> => {
    const parsed = parseHostPort(text);
    return parsed === undefined ? err(`"${text}" is not host:port`) : ok(parsed);
  };
  const share = (name: string, fallback: string): number | undefined =>
    env.string(name, fallback) === "" ? undefined : env.number(name, 1, 0, 1);
  const url = (name: string, fallback: string): string => {
    const text = env.string(name, fallback);
    if (text === "" || (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol))) return text;
    env.problem(name, `"${text}" is not an http or https URL (as http://collector:4318/v1/traces)`);
    return "";
  };
  /** HOST:PORT; several are separated by commas, and a name stands for all of its addresses: the next is tried when one is lost. */
  const controllers = list("FAIRLEAD_CONTROLLER", hostPort, "fairlead-controller-replicas.fairlead-system.svc:15012");
  if (controllers.length === 0) env.problem("FAIRLEAD_CONTROLLER", "names no controller");
  const runDir = path("FAIRLEAD_RUN_DIR", "/run/fairlead");
  return {
    // Who and where.
    node: named<NodeName>("FAIRLEAD_NODE", parseNodeName, hostname().toLowerCase()),
    trustDomain: named<TrustDomain>("FAIRLEAD_TRUST_DOMAIN", parseTrustDomain, "cluster.local"),
    /** Who tells of this node's pods: a folder of records (the lab), or the API server (docs/node-agent.md). */
    pods: env.oneOf("FAIRLEAD_PODS", ["folder", "kubernetes"], "folder"),
    podsDir: path("FAIRLEAD_PODS_DIR", "/run/fairlead/pods"),
    /** tmpfs: keys survive the agent, not the node (DP-20). */
    runDir,
    /** Disk: discovery survives the node. */
    cacheDir: path("FAIRLEAD_CACHE_DIR", "/var/lib/fairlead"),
    logLevel: env.oneOf("FAIRLEAD_LOG_LEVEL", logLevels, "info"),

    // The controller.
    controllers,
    /** Name to check in the controller's certificate, which always carries this one; "" checks the address, if that is a name. */
    controllerName: env.string("FAIRLEAD_CONTROLLER_NAME", "fairlead-controller"),
    joinTokenFile: path("FAIRLEAD_JOIN_TOKEN_FILE", ""),
    /** The agent's own service account token for the audience fairlead-ca, projected and rotated by the kubelet; with it nothing is joined. */
    tokenFile: path("FAIRLEAD_TOKEN_FILE", ""),
    caFile: path("FAIRLEAD_CA_FILE", ""),
    /** At most this long until the next try, so that a controller that is back is used within a second (DIS-5). */
    reconnectMaxMs: env.durationMs("FAIRLEAD_RECONNECT_MAX_MS", 800, 50, 60_000),
    /** Ping after this much silence and give up after the wait: together well under 30 s (DIS-4). */
    keepaliveMs: env.durationMs("FAIRLEAD_KEEPALIVE_MS", 10_000, 1_000, 25_000),
    keepaliveWaitMs: env.durationMs("FAIRLEAD_KEEPALIVE_WAIT_MS", 5_000, 500, 25_000),
    callMs: env.durationMs("FAIRLEAD_CALL_MS", 5_000, 100, 60_000),

    // The API server, with FAIRLEAD_PODS=kubernetes.
    /** For an agent outside of a pod; "": the service account of its pod. Tokens and certificates only, no plugins. */
    kubeconfig: path("FAIRLEAD_KUBECONFIG", ""),
    /** Namespaces whose pods are never in the mesh, whatever their labels say (DP-22); the agent's own is added. */
    excludedNamespaces: env.list("FAIRLEAD_EXCLUDED_NAMESPACES", ["kube-system"]),
    /** RuntimeClasses whose pods run on a kernel of their own, so that they cannot be enrolled (DP-11); a * at the end for any rest. */
    sandboxedClasses: env.list("FAIRLEAD_SANDBOXED_CLASSES", ["gvisor*", "runsc*", "kata*"]),
    /** The host's, seen with hostPID: true. */
    procDir: path("FAIRLEAD_PROC_DIR", "/proc"),
    /** Where container runtimes name network namespaces. */
    netnsDirs: env.list("FAIRLEAD_NETNS_DIRS", ["/run/netns"]),
    kubernetesService: {
      host: env.string("KUBERNETES_SERVICE_HOST", ""),
      port: env.string("KUBERNETES_SERVICE_PORT", "443"),
    },
    /** Token, root and namespace of the agent's own pod. */
    serviceAccountDir: path("FAIRLEAD_SERVICE_ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount"),

    // The CNI plugin (docs/cni.md).
    /** off; socket: only answers a plugin that others have installed; install: also puts it on the node and keeps it there. */
    cni: env.oneOf("FAIRLEAD_CNI", ["off", "socket", "install"], "off"),
    /** The same path here and on the node. */
    cniSocket: path("FAIRLEAD_CNI_SOCKET", join(runDir, "cni.sock")),
    /** The plugin that is installed. */
    cniProgram: path("FAIRLEAD_CNI_PROGRAM", join(projectDir, "native/target/plugin/fairlead-cni")),
    /** The node's folder of CNI configurations, as mounted here. */
    cniConfDir: path("FAIRLEAD_CNI_CONF_DIR", "/etc/cni/net.d"),
    /** The node's folder of CNI programs, as mounted here. */
    cniBinDir: path("FAIRLEAD_CNI_BIN_DIR", "/opt/cni/bin"),
    /** Changes are seen as they happen; a watch that was lost is made up for after this. */
    cniRescanMs: env.durationMs("FAIRLEAD_CNI_RESCAN_MS", 10_000, 100, 3_600_000),

    // What is known, and for how long.
    cacheTtlMs: env.durationMs("FAIRLEAD_CACHE_TTL_MS", 300_000, 1_000),
    cacheDelayMs: env.durationMs("FAIRLEAD_CACHE_DELAY_MS", 500, 0, 60_000),

    // Pods.
    podRescanMs: env.durationMs("FAIRLEAD_POD_RESCAN_MS", 2_000, 100, 600_000),
    /** How long an answer to /v1/pods/sync waits for a new pod's SVID: its first connection then finds one. */
    svidWaitMs: env.durationMs("FAIRLEAD_SVID_WAIT_MS", 3_000, 0, 60_000),
    svidGraceMs: env.durationMs("FAIRLEAD_SVID_GRACE_MS", 60_000, 0, 86_400_000),
    withdrawMs: env.durationMs("FAIRLEAD_WITHDRAW_MS", 5_000, 0, 300_000),

    // Life cycle.
    /** Long, because connections are: an idle one must survive the replacement of the agent (DP-19). */
    drainMs: env.durationMs("FAIRLEAD_DRAIN_MS", 300_000, 0, 86_400_000),
    /** An HTTP client that asks for nothing is let go after this much of the drain; one that asks is told with its answer. */
    drainIdleMs: env.durationMs("FAIRLEAD_DRAIN_IDLE_MS", 5_000, 10, 600_000),
    heartbeatMs: env.durationMs("FAIRLEAD_HEARTBEAT_MS", 250, 10, 10_000),
    /** Twenty missed beats: a long garbage collection is not a hung agent. */
    heartbeatDeadMs: env.durationMs("FAIRLEAD_HEARTBEAT_DEAD_MS", 5_000, 100, 600_000),
    /** Without an agent the last verdicts of the direct lane hold this long, then the namespace's mode (DP-31). */
    directGraceMs: env.durationMs("FAIRLEAD_DIRECT_GRACE_MS", 30_000, 0, 3_600_000),
    takeoverMs: env.durationMs("FAIRLEAD_TAKEOVER_MS", 10_000, 100, 600_000),

    // Native.
    libraryPath: path("FAIRLEAD_NATIVE_LIB", join(projectDir, "native/target/release/libfairlead.so")),
    workers: env.integer("FAIRLEAD_WORKERS", Math.min(4, availableParallelism()), 1, 256),
    bpfDir: path("FAIRLEAD_BPF_DIR", join(projectDir, "bpf/prebuilt")),
    pinDir: path("FAIRLEAD_BPF_PIN_DIR", "/sys/fs/bpf/fairlead"),
    /** Folder of cgroup2 that the programs are attached to and the pods are below; "": where cgroup2 is mounted. */
    cgroup: path("FAIRLEAD_CGROUP", ""),
    /** "": with FAIRLEAD_PODS=kubernetes that of the process that is the kubelet, else none (DP-10). */
    kubeletCgroup: path("FAIRLEAD_KUBELET_CGROUP", ""),
    interception: env.oneOf("FAIRLEAD_INTERCEPTION", ["auto", "ebpf", "nftables"], "auto"),
    /** Whether a pod's packets under the address of another pod of the mesh are dropped at its link (DP-7; eBPF, Linux 6.6). */
    antiSpoofing: env.oneOf("FAIRLEAD_ANTI_SPOOFING", ["on", "off"], "on"),
    /** Below the kernel's usual 32768-60999, and apart from each other (DP-1). */
    appPorts: range("FAIRLEAD_APP_PORTS", 20_000, 31_999),
    tunnelPorts: range("FAIRLEAD_TUNNEL_PORTS", 10_000, 19_999),
    questionTimeoutMs: env.durationMs("FAIRLEAD_QUESTION_TIMEOUT_MS", 1_000, 10, 60_000),
    handshakeTimeoutMs: env.durationMs("FAIRLEAD_HANDSHAKE_TIMEOUT_MS", 5_000, 100, 60_000),
    connectTimeoutMs: env.durationMs("FAIRLEAD_CONNECT_TIMEOUT_MS", 5_000, 100, 120_000),
    tunnelIdleMs: env.durationMs("FAIRLEAD_TUNNEL_IDLE_MS", 30_000, 100),
    /** A change of NetworkPolicy reaches streams on reused tunnels within this age (DP-15). */
    tunnelMaxAgeMs: env.durationMs("FAIRLEAD_TUNNEL_MAX_AGE_MS", 300_000, 1_000),
    tunnelMaxAgeJitterMs: env.durationMs("FAIRLEAD_TUNNEL_MAX_AGE_JITTER_MS", 60_000, 0),
    maxTunnelsPerPair: env.integer("FAIRLEAD_MAX_TUNNELS_PER_PAIR", 4_096, 1, 65_536),
    /** Handshakes of one pair of workloads under way at a time, on each worker; further connections wait for one or for a freed tunnel. */
    maxHandshakesPerPair: env.integer("FAIRLEAD_MAX_HANDSHAKES_PER_PAIR", 32, 1, 65_536),
    bufferBytes: env.integer("FAIRLEAD_BUFFER_BYTES", 65_536, 4_096, 4_194_304),
    /** Wait for first bytes where no protocol is declared (INT-7). */
    detectMs: env.durationMs("FAIRLEAD_DETECT_MS", 100, 0, 10_000),
    /** Wait for a tunnel hello from a possible speaker under PERMISSIVE (DP-8). */
    permissiveWaitMs: env.durationMs("FAIRLEAD_PERMISSIVE_WAIT_MS", 100, 0, 10_000),

    // What is told.
    adminSocket: path("FAIRLEAD_ADMIN_SOCKET", join(runDir, "agent.sock")),
    /** The SPIFFE Workload API for pods of the mesh on this node, in a folder that they may mount. */
    workloadSocket: path("FAIRLEAD_WORKLOAD_SOCKET", join(runDir, "workload/agent.sock")),
    metricsListen: env.hostPort("FAIRLEAD_METRICS_LISTEN", "0.0.0.0:15020"),
    /** off, stdout, file:PATH, syslog:udp:HOST:PORT, syslog:tcp:HOST:PORT, syslog:unix:PATH (docs/telemetry.md) */
    accessLog: env.string("FAIRLEAD_ACCESS_LOG", "off"),
    /** Where threat records are written; forms as of FAIRLEAD_ACCESS_LOG. The last ones are under /v1/threats in any case. */
    threatLog: env.string("FAIRLEAD_THREAT_LOG", "off"),
    /** Conditions: requests that one of them names are always written. Statuses as 5xx, 404, 500-503; 0 is no answer. */
    accessLogCodes: list("FAIRLEAD_ACCESS_LOG_CODES", parseStatus, ""),
    /** Condition: Envoy's response flags, as UAEX,UF. */
    accessLogFlags: list("FAIRLEAD_ACCESS_LOG_FLAGS", parseFlag, ""),
    /** Condition: requests that took longer; 0: none. */
    accessLogSlowerMs: env.durationMs("FAIRLEAD_ACCESS_LOG_SLOWER_MS", 0, 0, 3_600_000),
    /** Share of the requests that no condition names; "" is 1, and 0 where there is a condition. */
    accessLogSample: share("FAIRLEAD_ACCESS_LOG_SAMPLE", ""),
    /** Only requests from or to these namespaces; none: all. */
    accessLogNamespaces: env.list("FAIRLEAD_ACCESS_LOG_NAMESPACES", []),
    /** addresses (their last part), queries (what follows "?"): left out of the access log, taps and spans. */
    mask: words("FAIRLEAD_LOG_MASK", ["addresses", "queries"], []),
    /** Where spans are sent by OTLP over HTTP, as http://collector:4318/v1/traces; "": nowhere. */
    traceEndpoint: url("FAIRLEAD_TRACE_ENDPOINT", ""),
    /** Share of the traces begun here that are sampled. Requests that come with a decision keep it. */
    traceSample: env.number("FAIRLEAD_TRACE_SAMPLE", 0.01, 0, 1),
    /** Headers made where a request has none; what came is always carried on. */
    traceMake: words("FAIRLEAD_TRACE_HEADERS", madeHeaders, ["w3c", "request-id", "correlation-id"]),
    /** For one batch of spans, tries included. */
    traceTimeoutMs: env.durationMs("FAIRLEAD_TRACE_TIMEOUT_MS", 10_000, 100, 60_000),
    recordsKept: env.integer("FAIRLEAD_RECORDS_KEPT", 1_024, 0, 65_536),
    /** Distinct label sets of connection metrics; beyond it everything counts under "other" (OBS-1). */
    metricSeries: env.integer("FAIRLEAD_METRIC_SERIES", 10_000, 100, 1_000_000),
    /** Clients of rate limits that have a bucket of their own at a time, rounded up to a power of two. */
    limitKeys: env.integer("FAIRLEAD_LIMIT_KEYS", 65_536, 64, 2_097_152),
    /** Data threads of the HTTP lane, for half of the cores; 0: HTTP is carried as TCP by native. */
    dataThreads: env.integer("FAIRLEAD_DATA_THREADS", Math.max(1, Math.min(4, availableParallelism() >> 1)), 0, 64),
    /** Heap of one data thread, MiB: beyond it that thread ends alone, and is replaced. */
    dataThreadHeapMb: env.integer("FAIRLEAD_DATA_THREAD_HEAP_MB", 512, 32, 65_536),
    /** A data thread that answers nothing for so long is ended and replaced; generous, since a busy node may keep it from running. */
    dataThreadHungMs: env.durationMs("FAIRLEAD_DATA_THREAD_HUNG_MS", 10_000, 100, 600_000),
    /** Of one namespace's clients on one data thread: what is more is answered 503 (flag UO). */
    namespaceConnections: env.integer("FAIRLEAD_NAMESPACE_CONNECTIONS", 8_192, 1, 1_000_000),
    namespaceRequests: env.integer("FAIRLEAD_NAMESPACE_REQUESTS", 4_096, 1, 1_000_000),
    /** Heads that are not whole and answers that clients do not take, of one namespace on one data thread, MiB; beyond it those who hold most are let go. */
    namespaceBufferMb: env.integer("FAIRLEAD_NAMESPACE_BUFFER_MB", 64, 1, 65_536),
    /** Percent of a data thread's time for the clients of one namespace, while another's have something to do there too. */
    namespaceShare: env.integer("FAIRLEAD_NAMESPACE_SHARE", 50, 1, 100),
  };
}
