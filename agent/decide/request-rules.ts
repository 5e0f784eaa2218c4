// Rules of AuthorizationPolicies compiled for requests: patterns once per policy, the connection's part once per connection, so that a
// request only asks what is left. What no request tells (tokens) fails closed: it matches for DENY and CUSTOM and never else. Pure.

import type { PolicyName } from "../api/names.ts";
import {
  type Authorization,
  type Condition,
  isL7Condition,
  isTokenCondition,
  isTokenSource,
  type Operation,
  policyNameOf,
  type Rule,
  type Source,
} from "../api/policy.ts";
import { type Comparison, type FeatureName, featureOf, featureText, parseComparison } from "./feature-condition.ts";
import { BlockList, PathList, TextList } from "./patterns.ts";
import type { RequestView } from "./request-view.ts";
import { type Known, l4ConditionMatches, l4OperationMatches, l4SourceMatches } from "./rules.ts";

export interface CompiledSource {
  readonly source: Source;
  readonly isToken: boolean;
  readonly remote: BlockList;
  readonly notRemote: BlockList;
}
export interface CompiledOperation {
  readonly operation: Operation;
  readonly isPlain: boolean;
  readonly hosts: TextList;
  readonly notHosts: TextList;
  readonly methods: TextList;
  readonly notMethods: TextList;
  readonly paths: PathList;
  readonly notPaths: PathList;
}
type ConditionKind = "header" | "feature" | "sni" | "remote" | "token" | "connection";
export interface CompiledCondition {
  readonly condition: Condition;
  readonly kind: ConditionKind;
  /** Of a header, in lower case. */
  readonly name: string;
  readonly values: TextList;
  readonly notValues: TextList;
  readonly blocks: BlockList;
  readonly notBlocks: BlockList;
  /** Of a feature; and of its score, what it is compared with. */
  readonly feature: FeatureName | undefined;
  readonly scores: readonly Comparison[];
  readonly notScores: readonly Comparison[];
}
export interface CompiledRule {
  readonly rule: Rule;
  readonly from: readonly CompiledSource[];
  readonly to: readonly CompiledOperation[];
  readonly when: readonly CompiledCondition[];
}
export interface CompiledPolicy {
  readonly policy: Authorization;
  readonly name: PolicyName;
  /** DENY and CUSTOM: what is not known counts as matching, and any reading of a path or header is enough. */
  readonly widely: boolean;
  readonly rules: readonly CompiledRule[];
}

export function compilePolicy(policy: Authorization): CompiledPolicy {
  return {
    policy,
    name: policyNameOf(policy),
    widely: policy.action === "deny" || policy.action === "custom",
    rules: policy.rules.map((rule) => ({
      rule,
      from: rule.from.map(compileSource),
      to: rule.to.map(compileOperation),
      when: rule.when.map(compileCondition),
    })),
  };
}

const compileSource = (source: Source): CompiledSource => ({
  source,
  isToken: isTokenSource(source),
  remote: new BlockList(source.remoteIpBlocks),
  notRemote: new BlockList(source.notRemoteIpBlocks),
});

function compileOperation(operation: Operation): CompiledOperation {
  const { hosts, notHosts, methods, notMethods, paths, notPaths } = operation;
  const lower = (texts: readonly string[]): TextList => new TextList(texts.map((text) => text.toLowerCase()));
  return {
    operation,
    isPlain: [hosts, notHosts, methods, notMethods, paths, notPaths].every((list) => list.length === 0),
    hosts: lower(hosts),
    notHosts: lower(notHosts),
    methods: new TextList(methods),
    notMethods: new TextList(notMethods),
    paths: new PathList(paths),
    notPaths: new PathList(notPaths),
  };
}

function compileCondition(condition: Condition): CompiledCondition {
  const kind = kindOf(condition);
  const isBlocks = kind === "remote";
  const feature = featureOf(condition.key);
  const comparisons = (values: readonly string[]): readonly Comparison[] =>
    feature === "score" ? values.flatMap((value) => parseComparison(value) ?? []) : [];
  return {
    condition,
    kind,
    name: kind === "header" ? condition.key.slice("request.headers[".length, -1).toLowerCase() : "",
    values: new TextList(isBlocks ? [] : condition.values),
    notValues: new TextList(isBlocks ? [] : condition.notValues),
    blocks: new BlockList(isBlocks ? condition.values : []),
    notBlocks: new BlockList(isBlocks ? condition.notValues : []),
    feature,
    scores: comparisons(condition.values),
    notScores: comparisons(condition.notValues),
  };
}

function kindOf(condition: Condition): ConditionKind {
  if (!isL7Condition(condition)) return "connection";
  if (condition.key === "connection.sni") return "sni";
  if (condition.key === "remote.ip") return "remote";
  if (featureOf(condition.key) !== undefined) return "feature";
  if (!isTokenCondition(condition) && /^request\.headers\[[^\]]+\]$/.test(condition.key)) return "header";
  // A key of a newer mesh is as little known as a token.
  return "token";
}

/** A rule whose connection part holds; undefined lists have nothing left to ask. */
export interface BoundRule {
  readonly policy: CompiledPolicy;
  readonly index: number;
  readonly from: readonly CompiledSource[] | undefined;
  readonly to: readonly CompiledOperation[] | undefined;
  readonly when: readonly CompiledCondition[];
}

/** The rules of a policy that can still match on a connection of these facts, in their order. */
export function bindPolicy(policy: CompiledPolicy, known: Known): readonly BoundRule[] {
  const bound: BoundRule[] = [];
  for (const [index, rule] of policy.rules.entries()) {
    const from = remaining(
      rule.from,
      (s) => (policy.widely || !s.isToken) && l4SourceMatches(s.source, known),
      (s) => s.remote.isEmpty && s.notRemote.isEmpty,
    );
    const to = remaining(
      rule.to,
      (o) => l4OperationMatches(o.operation, known),
      (o) => o.isPlain,
    );
    const when = rule.when.every((c) => {
      if (c.kind === "connection") return l4ConditionMatches(c.condition, known);
      return c.kind !== "token" || policy.widely;
    });
    if (from === "none" || to === "none" || !when) continue;
    const left = rule.when.filter((c) => c.kind !== "connection" && c.kind !== "token");
    bound.push({ policy, index, from, to, when: left });
  }
  return bound;
}

/** Of alternatives, those that can still match; undefined when one does already, or there are none to choose from. */
function remaining<T>(
  alternatives: readonly T[],
  canMatch: (one: T) => boolean,
  isSettled: (one: T) => boolean,
): readonly T[] | undefined | "none" {
  if (alternatives.length === 0) return undefined;
  const left = alternatives.filter(canMatch);
  if (left.length === 0) return "none";
  return left.some(isSettled) ? undefined : left;
}

export function ruleMatches(rule: BoundRule, view: RequestView): boolean {
  const { widely } = rule.policy;
  return (
    (rule.to === undefined || someOperation(rule.to, view, widely)) &&
    (rule.from === undefined || someSource(rule.from, view, widely)) &&
    everyCondition(rule.when, view, widely)
  );
}

function someOperation(operations: readonly CompiledOperation[], view: RequestView, widely: boolean): boolean {
  for (let i = 0; i < operations.length; i++) {
    const o = operations[i] as CompiledOperation;
    if (!o.methods.isEmpty && !methodIn(o.methods, view.method, widely)) continue;
    if (!o.notMethods.isEmpty && methodIn(o.notMethods, view.method, !widely)) continue;
    if (!o.hosts.isEmpty && !hostIn(o.hosts, view)) continue;
    if (!o.notHosts.isEmpty && hostIn(o.notHosts, view)) continue;
    if (!o.paths.isEmpty && !o.paths.has(view, widely)) continue;
    if (!o.notPaths.isEmpty && o.notPaths.has(view, !widely)) continue;
    return true;
  }
  return false;
}

/** Methods have case (RFC 9110 §9.1), but some servers read "delete" as DELETE: `anyCase` counts that too. */
function methodIn(list: TextList, method: string, anyCase: boolean): boolean {
  return list.has(method) || (anyCase && list.has(method.toUpperCase()));
}

function hostIn(list: TextList, view: RequestView): boolean {
  const { hosts } = view;
  for (let i = 0; i < hosts.length; i++) if (list.has(hosts[i] as string)) return true;
  return false;
}

function someSource(sources: readonly CompiledSource[], view: RequestView, widely: boolean): boolean {
  for (let i = 0; i < sources.length; i++) {
    const { remote, notRemote } = sources[i] as CompiledSource;
    if (blocksMatch(remote, notRemote, view, widely)) return true;
  }
  return false;
}

function blocksMatch(blocks: BlockList, notBlocks: BlockList, view: RequestView, widely: boolean): boolean {
  const { remoteIp } = view;
  if (remoteIp === undefined) return widely;
  return (blocks.isEmpty || blocks.has(remoteIp)) && (notBlocks.isEmpty || !notBlocks.has(remoteIp));
}

function everyCondition(conditions: readonly CompiledCondition[], view: RequestView, widely: boolean): boolean {
  for (let i = 0; i < conditions.length; i++) {
    const condition = conditions[i] as CompiledCondition;
    if (!conditionMatches(condition, view, widely)) return false;
  }
  return true;
}

function conditionMatches(c: CompiledCondition, view: RequestView, widely: boolean): boolean {
  switch (c.kind) {
    case "remote":
      return blocksMatch(c.blocks, c.notBlocks, view, widely);
    case "sni":
      if (view.sni === undefined) return widely;
      return (c.values.isEmpty || c.values.has(view.sni)) && (c.notValues.isEmpty || !c.notValues.has(view.sni));
    case "feature":
      return featureMatches(c, view);
    case "header":
      return (
        (c.values.isEmpty || headerIn(c.values, c.name, view, widely)) &&
        (c.notValues.isEmpty || !headerIn(c.notValues, c.name, view, !widely))
      );
    default:
      return widely;
  }
}

/** What is not known has no value: none of `values` is it, and none of `notValues` either. */
function featureMatches(c: CompiledCondition, { features }: RequestView): boolean {
  if (c.feature === "score") {
    const score = features?.score;
    const is = (list: readonly Comparison[]): boolean => score !== undefined && list.some((compare) => compare(score));
    return (c.condition.values.length === 0 || is(c.scores)) && !is(c.notScores);
  }
  const value = c.feature && featureText(c.feature, features);
  if (value === undefined) return c.values.isEmpty;
  return (c.values.isEmpty || c.values.has(value)) && (c.notValues.isEmpty || !c.notValues.has(value));
}

/** Several fields of one name count as one joined text (Istio); `anyField`: as each of them too, so that none hides behind another. */
function headerIn(list: TextList, name: string, view: RequestView, anyField: boolean): boolean {
  const value = view.header(name);
  if (value === undefined) return false;
  if (list.hasPresent(value)) return true;
  return anyField && (value.includes(",") || value.includes(";")) && view.someField(name, (field) => list.has(field));
}
