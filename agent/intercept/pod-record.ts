// What the node says of one of its pods (docs/lab.md, "Pod record"): checked text -> record, and what the mesh makes of it.

import { isObjectName } from "../api/fields.ts";
import { meshLabel } from "../api/labels.ts";
import { type PodName, podName, type TrustDomain, workloadId, workloadUid } from "../api/names.ts";
import type { MeshSettings } from "../api/settings.ts";
import type { Workload } from "../api/workload.ts";
import { canonicalIp, parseCidr } from "../base/ip.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { LocalPod } from "../flow.ts";

export interface PodRecord {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly namespaceLabels: Readonly<Record<string, string>>;
  readonly namespaceAnnotations: Readonly<Record<string, string>>;
  readonly netns: string;
  readonly ips: readonly string[];
  readonly hostNetwork: boolean;
  readonly probePorts: readonly number[];
  /** Its control group, where it is not known by the uid in its name. */
  readonly cgroup?: string;
  /** Its namespace is one that is never in the mesh, whatever labels say (DP-22). */
  readonly excluded?: true;
  /** Why the pod cannot be enrolled whatever its labels say. */
  readonly refused?: string;
}

/** Parses the JSON of a pod record. The error names every wrong field. */
export function parsePodRecord(text: string): Result<PodRecord, string> {
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    return err(`is not JSON: ${(error as Error).message}`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) return err("is not a JSON object");
  const problems: string[] = [];
  const string = (field: string, fallback = ""): string => {
    const value = json[field] ?? fallback;
    if (typeof value === "string") return value;
    problems.push(`${field}: is not a string`);
    return fallback;
  };
  const name = (field: string, fallback = ""): string => {
    const value = string(field, fallback);
    if (!isObjectName(value)) problems.push(`${field}: "${value.slice(0, 80)}" is not a Kubernetes name`);
    return value;
  };
  const record = (field: string): Record<string, string> => {
    const value = json[field] ?? {};
    if (typeof value === "object" && !Array.isArray(value) && Object.values(value).every((v) => typeof v === "string"))
      return value as Record<string, string>;
    problems.push(`${field}: is not an object of strings`);
    return {};
  };
  const list = (field: string): readonly unknown[] => {
    const value = json[field] ?? [];
    if (Array.isArray(value)) return value;
    problems.push(`${field}: is not a list`);
    return [];
  };
  const ips = list("ips").map((ip, i) => {
    const canonical = typeof ip === "string" ? canonicalIp(ip) : undefined;
    if (canonical === undefined) problems.push(`ips[${i}]: is not an IP address`);
    return canonical ?? "";
  });
  const probePorts = list("probePorts").map((port, i) => {
    if (!isPort(port)) problems.push(`probePorts[${i}]: is not a port (1 to 65535)`);
    return port as number;
  });
  const parsed: PodRecord = {
    namespace: name("namespace"),
    name: name("name"),
    uid: string("uid"),
    serviceAccount: name("serviceAccount", "default"),
    labels: record("labels"),
    annotations: record("annotations"),
    namespaceLabels: record("namespaceLabels"),
    namespaceAnnotations: record("namespaceAnnotations"),
    netns: string("netns"),
    ips,
    hostNetwork: json.hostNetwork === true,
    probePorts,
    ...(string("cgroup") === "" ? {} : { cgroup: string("cgroup") }),
  };
  if (!parsed.hostNetwork && parsed.netns === "") problems.push("netns: is missing");
  return problems.length === 0 ? ok(parsed) : err(problems.join("; "));
}

const isPort = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65535;

/** Whether the pod is in the mesh; the reason is for people. A pod's own label wins over its namespace's. */
export function wantsMesh(
  record: PodRecord,
  settings: Pick<MeshSettings, "unmeshedNamespaces">,
): { readonly enrol: boolean; readonly reason: string } {
  if (record.hostNetwork) return { enrol: false, reason: "uses the host's network, which is never intercepted" };
  if (record.excluded === true)
    return { enrol: false, reason: `namespace ${record.namespace} is never in the mesh: the node needs it to start` };
  if (settings.unmeshedNamespaces.includes(record.namespace))
    return { enrol: false, reason: `namespace ${record.namespace} is kept out of the mesh by its settings` };
  const own = record.labels[meshLabel];
  if (own === "disabled") return { enrol: false, reason: `pod label ${meshLabel}=disabled` };
  if (own === "enabled") return { enrol: true, reason: `pod label ${meshLabel}=enabled` };
  if (record.namespaceLabels[meshLabel] === "enabled")
    return { enrol: true, reason: `namespace label ${meshLabel}=enabled` };
  return { enrol: false, reason: `neither pod nor namespace has the label ${meshLabel}=enabled` };
}

export interface PodOptions {
  readonly outboundPorts: readonly number[];
  readonly outboundCidrs: readonly string[];
  readonly inboundPorts: readonly number[];
  readonly bypass: boolean;
  /** Whether plain connections pass while no agent is alive; undefined: by the mTLS mode. */
  readonly failOpen: boolean | undefined;
  /** Annotations that could not be read: what they say does not hold, everything else does. */
  readonly problems: readonly string[];
}

/** Reads the `fairlead.dev/*` annotations; the mesh's own exclusions are added by the caller. */
export function podOptions(record: PodRecord): PodOptions {
  const problems: string[] = [];
  const parts = (key: string): readonly string[] =>
    (record.annotations[key] ?? "")
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== "");
  const ports = (key: string): readonly number[] =>
    parts(key).flatMap((text) => {
      const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
      if (isPort(port)) return [port];
      problems.push(`annotation ${key}: "${text}" is not a port (1 to 65535)`);
      return [];
    });
  const cidrs = (key: string): readonly string[] =>
    parts(key).filter((text) => {
      if (parseCidr(text) !== undefined) return true;
      problems.push(`annotation ${key}: "${text}" is not an address block`);
      return false;
    });
  const failKey = "fairlead.dev/fail-mode";
  const fail = record.annotations[failKey] ?? record.namespaceAnnotations[failKey];
  if (fail !== undefined && fail !== "open" && fail !== "closed")
    problems.push(`annotation ${failKey}: "${fail}" is neither open nor closed`);
  return {
    outboundPorts: ports("fairlead.dev/exclude-outbound-ports"),
    outboundCidrs: cidrs("fairlead.dev/exclude-outbound-cidrs"),
    inboundPorts: ports("fairlead.dev/exclude-inbound-ports"),
    bypass: record.annotations["fairlead.dev/bypass"] === "enabled",
    failOpen: fail === "open" ? true : fail === "closed" ? false : undefined,
    problems,
  };
}

/** The pod as decisions see it: from the node's own record, so it is there before discovery knows it (DP-22). */
export function localPodOf(record: PodRecord, trustDomain: TrustDomain, node: string): LocalPod & OnHost {
  const { namespace, name, serviceAccount, labels } = record;
  const workload: Workload = {
    uid: workloadUid(trustDomain, namespace, name),
    name,
    namespace,
    serviceAccount,
    trustDomain,
    node: node as Workload["node"],
    addresses: record.ips,
    labels,
    tunnel: "fairlead/1",
    ready: true,
    draining: false,
    weight: 1,
    region: "",
    zone: "",
    hostNetwork: record.hostNetwork,
    services: [],
    hbonePort: 15008,
    untunnelledPorts: [],
    hostPorts: [],
  };
  const host = { uid: record.uid, cgroup: record.cgroup };
  return { name: podNameOf(record), identity: workloadId(trustDomain, namespace, serviceAccount), workload, host };
}

/** What a pod's processes are known by: its uid, or its control group where the record names that. */
export interface OnHost {
  readonly host: { readonly uid: string; readonly cgroup: string | undefined };
}

export const podNameOf = (record: Pick<PodRecord, "namespace" | "name">): PodName =>
  podName(record.namespace, record.name);
