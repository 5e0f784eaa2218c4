// Shapes of AuthorizationPolicy, PeerAuthentication and MeshSettings.
import { isPathTemplate, isValidTemplate } from "../../agent/api/policy.ts";
import { enricherSettings } from "./enricher-schema.ts";
import {
  block,
  type Field,
  flag,
  integer,
  labels,
  list,
  number,
  object,
  objectName,
  oneOf,
  optional,
  port,
  portText,
  type Reader,
  required,
  showValue,
  text,
  texts,
} from "./schema.ts";
import type {
  AuthorizationOperation,
  AuthorizationPolicyObject,
  AuthorizationRule,
  AuthorizationSource,
  MeshSettingsObject,
  MtlsModeName,
  PeerAuthenticationObject,
  TargetRef,
} from "./types.ts";

const strings = optional(texts, []);
const blocks = optional(list(block), []);
const ports = optional(list(portText), []);
const selector = optional(object({ matchLabels: optional(labels, {}) }), { matchLabels: {} });

const source = object<AuthorizationSource>({
  principals: strings,
  notPrincipals: strings,
  namespaces: strings,
  notNamespaces: strings,
  ipBlocks: blocks,
  notIpBlocks: blocks,
  serviceAccounts: strings,
  notServiceAccounts: strings,
  requestPrincipals: strings,
  notRequestPrincipals: strings,
  remoteIpBlocks: blocks,
  notRemoteIpBlocks: blocks,
});
/** Exact, prefix, suffix, or a template: "{*}" for one segment, "{**}" for the rest of them. */
const requestPath: Reader<string> = (value, path, report) => {
  const pattern = text(value, path, report);
  if (isPathTemplate(pattern) && !isValidTemplate(pattern))
    report.problem(
      path,
      `is ${showValue(value)}, not a path template`,
      'let "{*}" and "{**}" stand alone between slashes, "{**}" as the last of them, without other "*", "{" or "}"',
    );
  return pattern;
};
const paths = optional(list(requestPath), []);
const operation = object<AuthorizationOperation>({
  ports,
  notPorts: ports,
  hosts: strings,
  notHosts: strings,
  methods: strings,
  notMethods: strings,
  paths,
  notPaths: paths,
});
const from = object<AuthorizationRule["from"][number]>({ source: required(source, {} as AuthorizationSource) });
const to = object<AuthorizationRule["to"][number]>({ operation: required(operation, {} as AuthorizationOperation) });

const conditionKeys = [
  "source.ip",
  "source.namespace",
  "source.principal",
  "source.serviceAccount",
  "remote.ip",
  "destination.ip",
  "destination.port",
  "connection.sni",
];
const conditionKey: Reader<string> = (value, path, report) => {
  const isKnown =
    typeof value === "string" &&
    (conditionKeys.includes(value) ||
      /^request\.(headers|auth\.claims)(\[[^\]]+\])+$/.test(value) ||
      /^request\.auth\.(principal|audiences|presenter)$/.test(value) ||
      /^features\.mesh\.(namespace|workload|service|pod|zone|trace_id|mesh_source|score)$/.test(value) ||
      value.startsWith("experimental."));
  if (!isKnown) {
    report.problem(
      path,
      `is ${showValue(value)}, not a condition`,
      `use one of ${conditionKeys.join(", ")}, request.headers[NAME], request.auth.*, features.mesh.*`,
    );
  }
  return String(value);
};
const whenFields = object<AuthorizationRule["when"][number]>({
  key: required(conditionKey, ""),
  values: strings,
  notValues: strings,
});
const when: Reader<AuthorizationRule["when"][number]> = (value, path, report) => {
  const condition = whenFields(value, path, report);
  if (condition.key !== "" && condition.values.length === 0 && condition.notValues.length === 0)
    report.problem(path, "has neither values nor notValues", "add one of them");
  if (condition.key === "features.mesh.score")
    for (const field of ["values", "notValues"] as const)
      condition[field].forEach((value, i) => {
        if (!/^(>=|<=|>|<)\s*[0-9](\.[0-9]{1,6})?$/.test(value))
          report.problem([...path, field, i], `is ${showValue(value)}, not a comparison`, 'write it as ">=0.6"');
      });
  return condition;
};
const rule = object<AuthorizationRule>({
  from: optional(list(from), []),
  to: optional(list(to), []),
  when: optional(list(when), []),
});
const targetRef = object<TargetRef>(
  { group: optional(text, ""), kind: required(oneOf(["Service"]), "Service"), name: required(objectName, "") },
  ["namespace"],
);
const noAuthorization: AuthorizationPolicyObject["spec"] = {
  selector: { matchLabels: {} },
  targetRef: undefined,
  targetRefs: [],
  action: "ALLOW",
  rules: [],
};
export const authorization: { readonly spec: Field<AuthorizationPolicyObject["spec"]> } = {
  spec: optional(
    object<AuthorizationPolicyObject["spec"]>(
      {
        selector,
        targetRef: optional<TargetRef | undefined>(targetRef, undefined),
        targetRefs: optional(list(targetRef), []),
        action: optional(oneOf(["ALLOW", "DENY", "AUDIT", "CUSTOM"]), "ALLOW"),
        rules: optional(list(rule), []),
      },
      ["provider"],
    ),
    noAuthorization,
  ),
};

const mode = oneOf<MtlsModeName>(["UNSET", "PERMISSIVE", "STRICT", "DISABLE"]);
const mtls = object({ mode: optional(mode, "UNSET") });
const portLevel: Reader<ReadonlyMap<number, MtlsModeName>> = (value, path, report) => {
  const out = new Map<number, MtlsModeName>();
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    report.problem(path, "is not a mapping of ports", 'write it as "8080": {mode: STRICT}');
    return out;
  }
  for (const [key, entry] of Object.entries(value)) {
    const at = [...path, key];
    out.set(port(/^[0-9]{1,5}$/.test(key) ? Number(key) : key, at, report), mtls(entry, at, report).mode);
  }
  return out;
};
export const peerAuthentication: { readonly spec: Field<PeerAuthenticationObject["spec"]> } = {
  spec: optional(
    object<PeerAuthenticationObject["spec"]>({
      selector,
      mtls: optional(mtls, { mode: "UNSET" }),
      portLevelMtls: optional(portLevel, new Map()),
    }),
    { selector: { matchLabels: {} }, mtls: { mode: "UNSET" }, portLevelMtls: new Map() },
  ),
};

const unset = <T>(read: Reader<T>): Field<T | undefined> => optional<T | undefined>(read, undefined);
const settings = object<MeshSettingsObject["spec"]>({
  trustDomainAliases: unset(texts),
  clusterDomain: unset(objectName),
  excludedPorts: unset(list(port)),
  excludedCidrs: unset(list(block)),
  serverFirstPorts: unset(list(port)),
  renewAt: unset(number(0.1, 0.8)),
  maxStaleMs: unset(integer(0, Number.MAX_SAFE_INTEGER)),
  unmeshedNamespaces: unset(list(objectName)),
  registryOnly: unset(flag),
  pathNormalization: unset(oneOf(["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"])),
  trustedProxies: unset(integer(0, 100)),
  faultInjection: unset(flag),
  enricher: unset(enricherSettings),
});
export const meshSettings: { readonly spec: Field<MeshSettingsObject["spec"]> } = {
  spec: required(settings, {} as MeshSettingsObject["spec"]),
};
