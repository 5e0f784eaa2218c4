// Does a rule of an AuthorizationPolicy match a connection, by what is known at L4? Pure; the order of policies is authorize.ts.
import { type PolicyName, partsOf, type SpiffeId, splitPair } from "../api/names.ts";
import {
  type Authorization,
  type Condition,
  isL7Condition,
  isL7Operation,
  isL7Rule,
  isL7Source,
  type Operation,
  policyNameOf,
  type Rule,
  type Source,
} from "../api/policy.ts";
import { type Cidr, cidrContains, parseCidr, parseIp } from "../base/ip.ts";

export interface ConnectionFacts {
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
  readonly destinationIp: string;
  readonly port: number;
  /** The mesh's own trust domain and its aliases: a principal written with any of them means the same workload. */
  readonly domains: readonly string[];
}

/** Of a refusal by a CUSTOM policy, where the input that decided is told. */
export const noAuthorizer = "CUSTOM refuses what it selects: no external authorizer is called";

/** Whether any rule needs a parsed request: such a policy is not enforced as written while only L4 is there. */
export const needsL7 = (policy: Authorization): boolean => policy.action === "custom" || policy.rules.some(isL7Rule);

/** Index of the first rule that matches. What L4 cannot know is false for ALLOW and AUDIT, and left out for DENY and CUSTOM. */
export function matchingRule(policy: Authorization, facts: ConnectionFacts): number | undefined {
  const lenient = policy.action === "deny" || policy.action === "custom";
  const known = factsFor(facts, splitPair(policyNameOf(policy) as PolicyName)[0]);
  const at = policy.rules.findIndex((rule) => ruleMatches(rule, known, lenient));
  return at < 0 ? undefined : at;
}

/** A connection's facts in the form that rules ask for. */
export interface Known {
  readonly principals: readonly string[];
  readonly namespace: string | undefined;
  /** "namespace/name", and the bare name when it is of the policy's own namespace. */
  readonly serviceAccounts: readonly string[];
  readonly sourceIp: string;
  readonly destinationIp: string;
  readonly port: string;
}

export function factsFor(facts: ConnectionFacts, policyNamespace: string): Known {
  const base = { sourceIp: facts.sourceIp, destinationIp: facts.destinationIp, port: String(facts.port) };
  const parts = facts.identity === null ? undefined : partsOf(facts.identity);
  if (parts?.kind !== "workload") return { ...base, principals: [], namespace: undefined, serviceAccounts: [] };
  const path = `ns/${parts.namespace}/sa/${parts.serviceAccount}`;
  const domains = facts.domains.includes(parts.trustDomain) ? facts.domains : [parts.trustDomain];
  const account = `${parts.namespace}/${parts.serviceAccount}`;
  return {
    ...base,
    principals: domains.map((domain) => `${domain}/${path}`),
    namespace: parts.namespace,
    serviceAccounts: parts.namespace === policyNamespace ? [account, parts.serviceAccount] : [account],
  };
}

function ruleMatches(rule: Rule, known: Known, lenient: boolean): boolean {
  const from = rule.from.length === 0 || rule.from.some((source) => sourceMatches(source, known, lenient));
  if (!from) return false;
  const to = rule.to.length === 0 || rule.to.some((operation) => operationMatches(operation, known, lenient));
  return to && rule.when.every((condition) => conditionMatches(condition, known, lenient));
}

const sourceMatches = (source: Source, known: Known, lenient: boolean): boolean =>
  (lenient || !isL7Source(source)) && l4SourceMatches(source, known);

/** The part of a source that a connection alone decides. */
export function l4SourceMatches(source: Source, known: Known): boolean {
  return (
    both(source.principals, source.notPrincipals, (patterns) => anyText(patterns, known.principals)) &&
    both(source.namespaces, source.notNamespaces, (patterns) =>
      anyText(patterns, known.namespace === undefined ? [] : [known.namespace]),
    ) &&
    both(source.serviceAccounts, source.notServiceAccounts, (patterns) => anyText(patterns, known.serviceAccounts)) &&
    both(source.ipBlocks, source.notIpBlocks, (blocks) => inBlocks(blocks, known.sourceIp))
  );
}

const operationMatches = (operation: Operation, known: Known, lenient: boolean): boolean =>
  (lenient || !isL7Operation(operation)) && l4OperationMatches(operation, known);

export const l4OperationMatches = (operation: Operation, known: Known): boolean =>
  both(operation.ports, operation.notPorts, (ports) => ports.includes(known.port));

const conditionMatches = (condition: Condition, known: Known, lenient: boolean): boolean =>
  isL7Condition(condition) ? lenient : l4ConditionMatches(condition, known);

export const l4ConditionMatches = (condition: Condition, known: Known): boolean =>
  both(condition.values, condition.notValues, (patterns) => conditionHas(condition.key, patterns, known));

function conditionHas(key: string, patterns: readonly string[], known: Known): boolean {
  switch (key) {
    case "source.ip":
      return inBlocks(patterns, known.sourceIp);
    case "destination.ip":
      return inBlocks(patterns, known.destinationIp);
    case "destination.port":
      return patterns.includes(known.port);
    case "source.namespace":
      return anyText(patterns, known.namespace === undefined ? [] : [known.namespace]);
    case "source.principal":
      return anyText(patterns, known.principals);
    case "source.serviceAccount":
      return anyText(patterns, known.serviceAccounts);
    default:
      return false;
  }
}

/** The positive list, when there is one, must match and the negative one must not. */
const both = (
  yes: readonly string[],
  no: readonly string[],
  matches: (patterns: readonly string[]) => boolean,
): boolean => (yes.length === 0 || matches(yes)) && (no.length === 0 || !matches(no));

const anyText = (patterns: readonly string[], values: readonly string[]): boolean =>
  patterns.some((pattern) => values.some((value) => textMatches(pattern, value)));

/** Istio's four forms: exact, "prefix*", "*suffix", and "*" for anything that is there. */
export function textMatches(pattern: string, value: string): boolean {
  if (pattern === "*") return value !== "";
  if (pattern.endsWith("*")) return value.startsWith(pattern.slice(0, -1));
  if (pattern.startsWith("*")) return value.endsWith(pattern.slice(1));
  return value === pattern;
}

// Policies are immutable and few, so their blocks are parsed once and kept by text.
const parsedBlocks = new Map<string, Cidr | undefined>();
const keptBlocks = 4096;

function inBlocks(blocks: readonly string[], ip: string): boolean {
  const address = parseIp(ip);
  if (address === undefined) return false;
  return blocks.some((block) => {
    let cidr = parsedBlocks.get(block);
    if (cidr === undefined) {
      cidr = parseCidr(block);
      if (parsedBlocks.size >= keptBlocks) parsedBlocks.clear();
      parsedBlocks.set(block, cidr);
    }
    return cidr !== undefined && cidrContains(cidr, address);
  });
}
