// Policies in internal form: Authorization (who may reach what) and TrafficPolicy (plaintext or mTLS). Wire form in mesh.proto.
import { checkFields, type Decoded, type Fields, invert, shorten, sortedRecord } from "./fields.ts";
import * as wire from "./mesh.gen.ts";
import { type PolicyName, parseServiceName, policyName, type ServiceName } from "./names.ts";

export type Scope = "mesh" | "namespace" | "workload";
export type Action = "allow" | "deny" | "audit" | "custom";
export type MtlsMode = "unset" | "permissive" | "strict" | "disable";

type Lists<K extends string> = Readonly<Record<K, readonly string[]>>;
/** Every list that is not empty must match; a list matches when any of its entries does, a `not` list when none does. */
export type Source = Lists<(typeof sourceKeys)[number]>;
/** As Source; everything after the ports is known only at L7. */
export type Operation = Lists<(typeof operationKeys)[number]>;
export interface Condition {
  readonly key: string;
  readonly values: readonly string[];
  readonly notValues: readonly string[];
}
export interface Rule {
  /** Any of them; none means every source. */
  readonly from: readonly Source[];
  /** Any of them; none means every operation. */
  readonly to: readonly Operation[];
  /** All of them. */
  readonly when: readonly Condition[];
}
export interface Authorization {
  readonly name: string;
  readonly namespace: string;
  readonly scope: Scope;
  readonly selector: Readonly<Record<string, string>>;
  readonly action: Action;
  readonly dryRun: boolean;
  /** None: matches nothing, so an ALLOW without rules refuses everything. */
  readonly rules: readonly Rule[];
  readonly targetServices: readonly ServiceName[];
}
export interface TrafficPolicy {
  readonly name: string;
  readonly namespace: string;
  readonly scope: Scope;
  readonly selector: Readonly<Record<string, string>>;
  readonly mode: MtlsMode;
  readonly portModes: ReadonlyMap<number, MtlsMode>;
  /** Unix ms; 0 where the source has no times, as a folder of manifests. */
  readonly createdMs: number;
  readonly dryRun: boolean;
}

const strictness: Readonly<Record<MtlsMode, number>> = { unset: 0, disable: 1, permissive: 2, strict: 3 };
type Claim = { readonly mode: MtlsMode; readonly policy: Pick<TrafficPolicy, "createdMs"> };
/**
 * Which of two policies on one level holds: the older; where that is not known, the stricter. An age that is not known (0) is taken
 * for the youngest: it must not depose a policy that has one.
 */
export function outranks(a: Claim, b: Claim): boolean {
  const [ageA, ageB] = [a, b].map(({ policy }) => policy.createdMs || Number.POSITIVE_INFINITY) as [number, number];
  return ageA === ageB ? strictness[a.mode] > strictness[b.mode] : ageA < ageB;
}

export const policyNameOf = (policy: { readonly namespace: string; readonly name: string }): PolicyName =>
  policyName(policy.namespace, policy.name);

const l4Source = [
  "principals",
  "notPrincipals",
  "namespaces",
  "notNamespaces",
  "ipBlocks",
  "notIpBlocks",
  "serviceAccounts",
  "notServiceAccounts",
] as const;
const l7Source = ["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"] as const;
const l4Operation = ["ports", "notPorts"] as const;
const l7Operation = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"] as const;
const sourceKeys = [...l4Source, ...l7Source] as const;
const operationKeys = [...l4Operation, ...l7Operation] as const;
/** `when` keys that are known without reading the bytes. */
export const l4Conditions: readonly string[] = [
  "source.ip",
  "source.namespace",
  "source.principal",
  "source.serviceAccount",
  "destination.ip",
  "destination.port",
];

export const isL7Source = (source: Source): boolean => l7Source.some((key) => source[key].length > 0);
export const isL7Operation = (operation: Operation): boolean => l7Operation.some((key) => operation[key].length > 0);
export const isL7Condition = (condition: Condition): boolean => !l4Conditions.includes(condition.key);
/** Whether deciding this rule needs a parsed request (or SNI). */
export const isL7Rule = (rule: Rule): boolean =>
  rule.from.some(isL7Source) || rule.to.some(isL7Operation) || rule.when.some(isL7Condition);

/** What only a JSON Web Token would tell (or a filter that is not here): not known even of a parsed request. */
export const isTokenSource = (source: Source): boolean =>
  source.requestPrincipals.length > 0 || source.notRequestPrincipals.length > 0;
export const isTokenCondition = (condition: Condition): boolean =>
  condition.key.startsWith("request.auth.") || condition.key.startsWith("experimental.");
export const isTokenRule = (rule: Rule): boolean => rule.from.some(isTokenSource) || rule.when.some(isTokenCondition);

/** As Istio tells a template of paths from a path. */
export const isPathTemplate = (pattern: string): boolean => pattern.includes("{*}") || pattern.includes("{**}");
/** Operators stand alone between slashes, "{**}" is the last of them, and nothing else has "*", "{" or "}". */
export function isValidTemplate(pattern: string): boolean {
  const segments = pattern.split("/");
  const rest = segments.indexOf("{**}");
  return (
    segments[0] === "" &&
    segments.every((s, i) => (s === "{*}" || s === "{**}" ? rest < 0 || i <= rest : !/[*{}]/.test(s)))
  );
}

/** A Source with the given lists, everything else empty. */
export const sourceOf = (lists: Partial<Source>): Source => fill(sourceKeys, lists);
export const operationOf = (lists: Partial<Operation>): Operation => fill(operationKeys, lists);
function fill<K extends string>(keys: readonly K[], lists: Partial<Lists<K>>): Lists<K> {
  return Object.fromEntries(keys.map((key) => [key, [...(lists[key] ?? [])]])) as unknown as Lists<K>;
}

const scopes: Readonly<Record<number, Scope>> = {
  [wire.Scope.SCOPE_MESH]: "mesh",
  [wire.Scope.SCOPE_NAMESPACE]: "namespace",
  [wire.Scope.SCOPE_WORKLOAD]: "workload",
};
const actions: Readonly<Record<number, Action>> = {
  [wire.Action.ACTION_ALLOW]: "allow",
  [wire.Action.ACTION_DENY]: "deny",
  [wire.Action.ACTION_AUDIT]: "audit",
  [wire.Action.ACTION_CUSTOM]: "custom",
};
const modes: Readonly<Record<number, MtlsMode>> = {
  [wire.MtlsMode.MTLS_UNSET]: "unset",
  [wire.MtlsMode.MTLS_PERMISSIVE]: "permissive",
  [wire.MtlsMode.MTLS_STRICT]: "strict",
  [wire.MtlsMode.MTLS_DISABLE]: "disable",
};
const scopeNumbers = invert(scopes);
const actionNumbers = invert(actions);
const modeNumbers = invert(modes);
export const scopeFromWire = (fields: Fields, scope: wire.Scope): Scope =>
  fields.oneOf("scope", scope, scopes, "workload");
export const scopeToWire = (scope: Scope): wire.Scope => scopeNumbers[scope] as wire.Scope;

function ruleFromWire(fields: Fields, at: string, rule: wire.Rule): Rule {
  const blocks = ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] as const;
  rule.from.forEach((source, i) => {
    for (const key of blocks)
      source[key].forEach((block, j) => void fields.cidr(`${at}.from[${i}].${key}[${j}]`, block));
  });
  rule.to.forEach((operation, i) => {
    for (const key of ["ports", "notPorts"] as const) {
      operation[key].forEach((port, j) => void fields.port(`${at}.to[${i}].${key}[${j}]`, portNumber(port)));
    }
    for (const key of ["paths", "notPaths"] as const) {
      operation[key].forEach((path, j) => {
        if (isPathTemplate(path) && !isValidTemplate(path))
          fields.problem(`${at}.to[${i}].${key}[${j}]`, `"${shorten(path)}" is not a path template`);
      });
    }
  });
  rule.when.forEach((condition, i) => {
    if (condition.key === "") fields.problem(`${at}.when[${i}].key`, "is missing");
  });
  return {
    from: rule.from.map(sourceOf),
    to: rule.to.map(operationOf),
    when: rule.when.map(({ key, values, notValues }) => ({ key, values, notValues })),
  };
}
const portNumber = (text: string): number => (/^[0-9]{1,5}$/.test(text) ? Number(text) : Number.NaN);

export function authorizationFromWire(message: wire.Authorization): Decoded<Authorization> {
  const fields = checkFields();
  return fields.finish<Authorization>({
    name: fields.name("name", message.name),
    namespace: fields.name("namespace", message.namespace),
    scope: scopeFromWire(fields, message.scope),
    selector: message.selector,
    action: fields.oneOf("action", message.action, actions, "deny"),
    dryRun: message.dryRun,
    rules: message.rules.map((rule, i) => ruleFromWire(fields, `rules[${i}]`, rule)),
    targetServices: message.targetServices.map((service, i) =>
      fields.parsed(`target_services[${i}]`, parseServiceName(service), "" as ServiceName),
    ),
  });
}

export function authorizationToWire(policy: Authorization): wire.Authorization {
  const copy = <T>(lists: Readonly<Record<string, readonly string[]>>): T =>
    Object.fromEntries(Object.entries(lists).map(([key, list]) => [key, [...list]])) as T;
  return {
    name: policy.name,
    namespace: policy.namespace,
    scope: scopeToWire(policy.scope),
    selector: sortedRecord(policy.selector),
    action: actionNumbers[policy.action] as wire.Action,
    dryRun: policy.dryRun,
    rules: policy.rules.map((rule) => ({
      from: rule.from.map((source) => copy<wire.Source>(source)),
      to: rule.to.map((operation) => copy<wire.Operation>(operation)),
      when: rule.when.map((c) => ({ key: c.key, values: [...c.values], notValues: [...c.notValues] })),
    })),
    targetServices: [...policy.targetServices],
  };
}

export function trafficPolicyFromWire(message: wire.TrafficPolicy): Decoded<TrafficPolicy> {
  const fields = checkFields();
  const portModes = new Map<number, MtlsMode>();
  for (const [key, mode] of Object.entries(message.portModes)) {
    const port = fields.port(`port_modes[${key}]`, Number(key));
    portModes.set(port, fields.oneOf(`port_modes[${key}]`, mode, modes, "strict"));
  }
  return fields.finish<TrafficPolicy>({
    name: fields.name("name", message.name),
    namespace: fields.name("namespace", message.namespace),
    scope: scopeFromWire(fields, message.scope),
    selector: message.selector,
    mode: fields.oneOf("mode", message.mode, modes, "strict"),
    portModes,
    createdMs: message.createdMs,
    dryRun: message.dryRun,
  });
}

export function trafficPolicyToWire(policy: TrafficPolicy): wire.TrafficPolicy {
  const ports = [...policy.portModes].sort(([a], [b]) => a - b);
  return {
    name: policy.name,
    namespace: policy.namespace,
    scope: scopeToWire(policy.scope),
    selector: sortedRecord(policy.selector),
    mode: modeNumbers[policy.mode] as wire.MtlsMode,
    portModes: Object.fromEntries(ports.map(([port, mode]) => [port, modeNumbers[mode] as wire.MtlsMode])),
    createdMs: policy.createdMs,
    dryRun: policy.dryRun,
  };
}
