// A Pod manifest -> what the lab runs. Pure; every field that the lab cannot honour is a problem that names the field and the fix.
import { displayName, type Fields, fieldsAt, type KubeObject, listAt, type Problem, stringsAt } from "./objects.ts";
import { type ProbeSpec, parseProbe } from "./probe-spec.ts";

export interface ContainerSpec {
  readonly name: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly fieldEnv: Readonly<Record<string, string>>;
  readonly workingDir: string;
  readonly capabilities: readonly string[];
  readonly user: { readonly uid?: number; readonly gid?: number };
  readonly startup?: ProbeSpec;
  readonly readiness?: ProbeSpec;
  readonly liveness?: ProbeSpec;
}

export interface PodSpec {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly serviceAccount: string;
  readonly nodeName?: string;
  readonly hostNetwork: boolean;
  readonly hostname: string;
  readonly subdomain: string;
  readonly restartPolicy: "Always" | "OnFailure" | "Never";
  readonly graceMs: number;
  readonly initContainers: readonly ContainerSpec[];
  readonly containers: readonly ContainerSpec[];
  /** Ports that the kubelet may probe (rule DP-10). */
  readonly probePorts: readonly number[];
  readonly addressNumber?: number;
  readonly source: KubeObject;
}

/** What a container gets in Docker and containerd unless it asks for more. */
export const DEFAULT_CAPABILITIES = [
  "chown",
  "dac_override",
  "fowner",
  "fsetid",
  "kill",
  "setgid",
  "setuid",
  "setpcap",
  "net_bind_service",
  "net_raw",
  "sys_chroot",
  "mknod",
  "audit_write",
  "setfcap",
] as const; // prettier-ignore

/** Annotation that fixes a pod's host number inside its node's range (tests of address reuse). */
export const ADDRESS_ANNOTATION = "fairlead.dev/lab-address";

type Report = (field: string, message: string, fix: string) => void;

/** @returns the spec, or undefined with the problems when the pod cannot run at all. */
export function parsePod(object: KubeObject): { readonly pod?: PodSpec; readonly problems: readonly Problem[] } {
  const problems: Problem[] = [];
  const report: Report = (field, message, fix) =>
    problems.push({ file: object.file, object: displayName(object), field, message, fix });
  const spec = fieldsAt(object.fields.spec);
  const list = (key: string): ContainerSpec[] =>
    listAt(spec[key]).flatMap((c, i) => parseContainer(fieldsAt(c), `spec.${key}[${i}]`, report) ?? []);
  const containers = list("containers");
  const initContainers = list("initContainers");
  if (listAt(spec.containers).length === 0)
    report("spec.containers", "a pod needs at least one container", "add a container with a command");
  const policy = spec.restartPolicy ?? "Always";
  if (policy !== "Always" && policy !== "OnFailure" && policy !== "Never")
    report("spec.restartPolicy", `${String(policy)} is unknown`, "use Always, OnFailure or Never");
  if (listAt(spec.volumes).length > 0)
    report("spec.volumes", "the lab mounts no volumes", "write files under /tmp, which is private to each pod");
  const number = object.annotations[ADDRESS_ANNOTATION];
  const addressNumber = number === undefined ? undefined : Number(number);
  if (addressNumber !== undefined && !(Number.isInteger(addressNumber) && addressNumber >= 2 && addressNumber <= 254))
    report(
      `metadata.annotations["${ADDRESS_ANNOTATION}"]`,
      `${number} is no host number`,
      "use a number from 2 to 254",
    );
  const fatal = problems.some((p) => p.field !== "spec.volumes");
  if (fatal) return { problems };
  const text = (key: string, fallback: string): string => (typeof spec[key] === "string" ? spec[key] : fallback);
  const grace = spec.terminationGracePeriodSeconds;
  const probes = containers.flatMap((c) => [c.startup, c.readiness, c.liveness]);
  const pod: PodSpec = {
    namespace: object.namespace,
    name: object.name,
    labels: object.labels,
    annotations: object.annotations,
    serviceAccount: text("serviceAccountName", text("serviceAccount", "default")),
    ...(typeof spec.nodeName === "string" && spec.nodeName !== "" ? { nodeName: spec.nodeName } : {}),
    hostNetwork: spec.hostNetwork === true,
    hostname: text("hostname", object.name),
    subdomain: text("subdomain", ""),
    restartPolicy: policy as PodSpec["restartPolicy"],
    graceMs: typeof grace === "number" ? grace * 1000 : 30_000,
    initContainers,
    containers,
    probePorts: [...new Set(probes.flatMap((p) => (p === undefined || p.port === undefined ? [] : [p.port])))],
    ...(addressNumber === undefined ? {} : { addressNumber }),
    source: object,
  };
  return { pod, problems };
}

function parseContainer(fields: Fields, at: string, report: Report): ContainerSpec | undefined {
  const name = typeof fields.name === "string" ? fields.name : at;
  const words = (key: string): string[] | undefined => {
    const value = fields[key];
    if (value === undefined || value === null) return [];
    if (Array.isArray(value) && value.every((w) => ["string", "number", "boolean"].includes(typeof w)))
      return value.map(String);
    report(`${at}.${key}`, "must be a list of words", `write ${key}: ["program", "argument"]`);
    return undefined;
  };
  const command = words("command");
  const args = words("args");
  if (command === undefined || args === undefined) return undefined;
  if (command.length === 0) {
    report(
      `${at}.command`,
      "missing; the lab runs programs of this machine, not images",
      'give a command, e.g. command: ["nginx", "-g", "daemon off;"]',
    );
    return undefined;
  }
  const env: Record<string, string> = {};
  const fieldEnv: Record<string, string> = {};
  for (const [i, item] of listAt(fields.env).entries()) {
    const entry = fieldsAt(item);
    const key = String(entry.name ?? "");
    const path = fieldsAt(fieldsAt(entry.valueFrom).fieldRef).fieldPath;
    if (key === "") report(`${at}.env[${i}].name`, "missing", "name the variable");
    else if (typeof path === "string") fieldEnv[key] = path;
    else if (entry.valueFrom !== undefined)
      report(`${at}.env[${i}].valueFrom`, "the lab has no ConfigMaps and Secrets for pods", "use value or fieldRef");
    else env[key] = String(entry.value ?? "");
  }
  const security = fieldsAt(fields.securityContext);
  const caps = fieldsAt(security.capabilities);
  const named = (key: string): string[] => listAt(caps[key]).map((c) => String(c).toLowerCase().replace(/^cap_/, ""));
  const dropped = new Set(named("drop"));
  const base =
    security.privileged === true ? ["all"] : DEFAULT_CAPABILITIES.filter((c) => !dropped.has(c) && !dropped.has("all"));
  const uid = security.runAsUser;
  const gid = security.runAsGroup;
  const ports = new Map(listAt(fields.ports).map((p) => [fieldsAt(p).name, fieldsAt(p).containerPort]));
  const probe = (key: string): ProbeSpec | undefined =>
    fields[key] === undefined ? undefined : parseProbe(fieldsAt(fields[key]), `${at}.${key}`, ports, report);
  const [startup, readiness, liveness] = [probe("startupProbe"), probe("readinessProbe"), probe("livenessProbe")];
  return {
    name,
    argv: [...command, ...args],
    env,
    fieldEnv,
    workingDir: typeof fields.workingDir === "string" ? fields.workingDir : "/",
    capabilities: [...new Set([...base, ...named("add")])],
    user: { ...(typeof uid === "number" ? { uid } : {}), ...(typeof gid === "number" ? { gid } : {}) },
    ...(startup === undefined ? {} : { startup }),
    ...(readiness === undefined ? {} : { readiness }),
    ...(liveness === undefined ? {} : { liveness }),
  };
}

/** `$(NAME)` in words of a command, as Kubernetes expands it: known names only, `$$(NAME)` stays `$(NAME)`. */
export function expand(word: string, env: Readonly<Record<string, string>>): string {
  return word.replace(/\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))/g, (whole, rest: string, name: string | undefined) =>
    rest === "$" ? "$" : name !== undefined && Object.hasOwn(env, name) ? (env[name] ?? "") : whole,
  );
}

/** Part of the manifest that a running pod cannot take over: a change of it replaces the pod. */
export const podIdentity = (pod: PodSpec): string =>
  JSON.stringify([fieldsAt(pod.source.fields.spec), pod.addressNumber ?? null]);
export const podKey = (pod: { readonly namespace: string; readonly name: string }): string =>
  `${pod.namespace}/${pod.name}`;

/** In the mesh: the namespace's label, overridden by the pod's own; a pod in the host's network never is (INT-12, INT-16). */
export function isMeshed(pod: PodSpec, namespaceLabels: Readonly<Record<string, string>>): boolean {
  if (pod.hostNetwork) return false;
  return (pod.labels["fairlead.dev/mesh"] ?? namespaceLabels["fairlead.dev/mesh"]) === "enabled";
}

export const objectLabels = (object: KubeObject | undefined): Record<string, string> =>
  stringsAt(fieldsAt(object?.fields.metadata).labels);
