// What `fairlead check` finds, out of facts that were asked for: each finding has a state, and a fix where it is not good. Pure.
import { type Fields, fieldsAt, listAt } from "../../test/lab/objects.ts";

export interface Finding {
  readonly about: string;
  readonly state: "ok" | "warning" | "failed";
  readonly message: string;
  readonly fix: string;
}

/** The least that is tested and supported; docs/install.md says the same. */
export const minimums = {
  kubernetes: [1, 30],
  gatewayApi: [1, 1],
  /** For eBPF (docs/interception.md); below it nftables is used. */
  kernel: [5, 18],
  memoryBytes: 512 * 1024 * 1024,
} as const;

const good = (about: string, message: string): Finding => ({ about, state: "ok", message, fix: "" });
const bad = (about: string, message: string, fix: string): Finding => ({ about, state: "failed", message, fix });
const doubtful = (about: string, message: string, fix: string): Finding => ({ about, state: "warning", message, fix });

/** "v1.36.3-gke.1" -> [1, 36]; undefined where there are no two numbers. */
export function versionOf(text: string): readonly [number, number] | undefined {
  const match = /^v?(\d+)\.(\d+)/.exec(text);
  return match === null ? undefined : [Number(match[1]), Number(match[2])];
}
const isAtLeast = (version: readonly [number, number], least: readonly [number, number]): boolean =>
  version[0] > least[0] || (version[0] === least[0] && version[1] >= least[1]);

/** @param version of the API server's /version */
export function aboutKubernetes(version: Fields): Finding {
  const text = String(version.gitVersion ?? "");
  const read = versionOf(text);
  const least = minimums.kubernetes.join(".");
  if (read === undefined)
    return doubtful("Kubernetes", `its version "${text}" cannot be read`, `make sure that it is ${least} or newer`);
  return isAtLeast(read, minimums.kubernetes)
    ? good("Kubernetes", text)
    : bad("Kubernetes", `${text} is older than ${least}`, `upgrade the cluster to ${least} or newer`);
}

/** @param crd CustomResourceDefinition of HTTPRoute, undefined where there is none */
export function aboutGatewayApi(crd: Fields | undefined): Finding {
  const least = minimums.gatewayApi.join(".");
  const install = `install its CRDs, ${least} or newer, to route by HTTPRoute and GRPCRoute`;
  if (crd === undefined) return doubtful("Gateway API", "is not installed: there are no routes", install);
  const bundle = String(fieldsAt(fieldsAt(crd.metadata).annotations)["gateway.networking.k8s.io/bundle-version"] ?? "");
  const read = versionOf(bundle);
  if (read === undefined) return doubtful("Gateway API", "its version is not written on its CRDs", install);
  return isAtLeast(read, minimums.gatewayApi)
    ? good("Gateway API", bundle)
    : bad("Gateway API", `${bundle} is older than ${least}`, install);
}

/** Bytes of a Kubernetes quantity of memory ("16Gi", "8000000Ki", "4G"); undefined where it is none. */
export function memoryOf(quantity: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T|m)?$/.exec(quantity);
  if (match === null) return undefined;
  const units: Readonly<Record<string, number>> = {
    Ki: 2 ** 10,
    Mi: 2 ** 20,
    Gi: 2 ** 30,
    Ti: 2 ** 40,
    k: 1e3,
    M: 1e6,
    G: 1e9,
    T: 1e12,
    m: 1e-3,
  };
  return Number(match[1]) * (match[2] === undefined ? 1 : (units[match[2]] ?? 1));
}

/** One finding for all good nodes, one for each other. */
export function aboutNodes(nodes: readonly Fields[]): readonly Finding[] {
  if (nodes.length === 0) return [bad("nodes", "the cluster has none", "add a node")];
  const least = minimums.kernel.join(".");
  const findings: Finding[] = [];
  let fine = 0;
  for (const node of nodes) {
    const about = `node ${String(fieldsAt(node.metadata).name ?? "")}`;
    const status = fieldsAt(node.status);
    const info = fieldsAt(status.nodeInfo);
    const kernel = String(info.kernelVersion ?? "");
    const read = versionOf(kernel);
    const memory = memoryOf(String(fieldsAt(status.allocatable).memory ?? ""));
    const before = findings.length;
    if (info.operatingSystem !== "linux") {
      findings.push(doubtful(about, `runs ${String(info.operatingSystem)}`, "pods there are never in the mesh"));
      continue;
    }
    if (read === undefined || !isAtLeast(read, minimums.kernel))
      findings.push(
        doubtful(
          about,
          `kernel ${kernel} is older than ${least}: nftables instead of eBPF`,
          `run Linux ${least} or newer for the direct lane`,
        ),
      );
    if (!["amd64", "arm64"].includes(String(info.architecture)))
      findings.push(bad(about, `there are no images for ${String(info.architecture)}`, "use amd64 or arm64"));
    if (memory !== undefined && memory < minimums.memoryBytes)
      findings.push(
        bad(
          about,
          `${Math.round(memory / 2 ** 20)} MiB are allocatable`,
          "an agent is given 256 MiB; leave room for pods",
        ),
      );
    if (findings.length === before) fine++;
  }
  return fine === 0
    ? findings
    : [good("nodes", `${fine} of ${nodes.length} with Linux ${least} or newer, amd64 or arm64`), ...findings];
}

/** @param denied what the caller may not do, as "create customresourcedefinitions" */
export const aboutRights = (denied: readonly string[]): Finding =>
  denied.length === 0
    ? good("your rights", "enough to install")
    : doubtful(
        "your rights",
        `you may not ${denied.join(", ")}`,
        "install with an account of the role cluster-admin, or have these granted",
      );

export interface InstalledFacts {
  readonly daemonSet: Fields;
  readonly deployment: Fields;
  /** Each node's answer of /v1/status, or why there is none. */
  readonly agents: readonly { readonly node: string; readonly value?: Fields; readonly error?: string }[];
  /** The controller's /v1/status, or why there is none. */
  readonly controller: { readonly value?: Fields; readonly error?: string };
}

export function aboutInstallation(facts: InstalledFacts, nowMs: number): readonly Finding[] {
  const { daemonSet, deployment, agents, controller } = facts;
  const wanted = Number(fieldsAt(daemonSet.status).desiredNumberScheduled ?? 0);
  const ready = Number(fieldsAt(daemonSet.status).numberReady ?? 0);
  const findings: Finding[] = [
    ready >= wanted && wanted > 0
      ? good("agents", `ready on ${ready} of ${wanted} nodes`)
      : bad(
          "agents",
          `ready on ${ready} of ${wanted} nodes`,
          "kubectl get pods and describe say why; each pod's log its reason",
        ),
    replicasOf(deployment),
  ];
  for (const agent of agents) findings.push(...aboutAgent(agent));
  const versions = [...new Set(agents.flatMap((a) => (a.value === undefined ? [] : [String(a.value.version ?? "")])))];
  if (versions.length > 1)
    findings.push(doubtful("versions", `agents of ${versions.join(" and ")} run`, "let the rolling upgrade end"));
  if (controller.value === undefined)
    findings.push(bad("controller", `does not answer: ${controller.error ?? ""}`, "look at its pods' logs"));
  else findings.push(aboutCa(fieldsAt(controller.value.ca), nowMs), aboutObjects(listAt(controller.value.objects)));
  return findings;
}

function replicasOf(deployment: Fields): Finding {
  const wanted = Number(fieldsAt(deployment.spec).replicas ?? 0);
  const ready = Number(fieldsAt(deployment.status).readyReplicas ?? 0);
  const message = `${ready} of ${wanted} replicas are ready`;
  if (ready === 0) return bad("controller", message, "kubectl describe and the pods' logs say why");
  if (ready < wanted) return doubtful("controller", message, "kubectl describe says why");
  return ready === 1
    ? doubtful("controller", message, "run two: with one, its restart means no new certificates or changes for a while")
    : good("controller", message);
}

function aboutAgent({ node, value, error }: InstalledFacts["agents"][number]): readonly Finding[] {
  const about = `agent of ${node}`;
  if (value === undefined) return [bad(about, `does not answer: ${error ?? ""}`, "look at its pod's log")];
  const findings: Finding[] = [];
  const discovery = fieldsAt(value.discovery);
  const troubled = listAt(fieldsAt(value.certificates).troubled).length;
  const hooks = listAt(value.foreignHooks).length;
  if (value.phase !== "ready") findings.push(bad(about, `is ${String(value.phase)}`, "look at its pod's log"));
  if (discovery.connected !== true)
    findings.push(
      bad(
        about,
        `has no controller: ${String(discovery.problem ?? "")}`,
        "it serves what it knows; look at the controller",
      ),
    );
  if (troubled > 0)
    findings.push(bad(about, `${troubled} certificates are missing or late`, "fairlead certs shows which and why"));
  if (value.directLane === false)
    findings.push(
      doubtful(
        about,
        `intercepts with ${String(value.interception)}, without the direct lane: ${String(value.interceptionReason)}`,
        "allow eBPF on the node",
      ),
    );
  if (hooks > 0)
    findings.push(
      doubtful(about, `${hooks} connect hooks of others run after ours`, "see docs/interception.md, other hooks"),
    );
  return findings.length > 0 ? findings : [good(about, `ready, ${String(value.interception)}`)];
}

function aboutCa(ca: Fields, nowMs: number): Finding {
  const ends = Date.parse(String(ca.intermediateNotAfter ?? ""));
  const days = Math.floor((ends - nowMs) / 86_400_000);
  if (Number.isNaN(ends)) return doubtful("CA", "the controller tells nothing of its certificate", "look at its log");
  if (days < 0) return bad("CA", `its certificate ended ${-days} days ago`, "supply a new one, or rotate");
  return days < 14
    ? doubtful("CA", `its certificate ends in ${days} days`, "supply a new one, or rotate")
    : good("CA", `trust domain ${String(ca.trustDomain)}, certificate for ${days} more days`);
}

function aboutObjects(objects: readonly unknown[]): Finding {
  const refused = objects.map(fieldsAt).filter((o) => o.accepted === false);
  if (refused.length === 0) return good("objects", `${objects.length}, none refused`);
  const names = refused.slice(0, 3).map((o) => `${String(o.kind)} ${String(o.namespace)}/${String(o.name)}`);
  const more = refused.length > names.length ? ` and ${refused.length - names.length} more` : "";
  return bad("objects", `refused: ${names.join(", ")}${more}`, "fairlead status says why");
}
