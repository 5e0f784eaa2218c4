// Which rule a request falls under, in the order of Gateway API. Routes are compiled once; a decision costs the same with ten routes as
// with ten thousand: a map of hosts, then a map of exact paths, expressions, and a trie of path segments. Pure.
import type { FieldMatch, RouteMatch } from "../../api/http-match.ts";
import { anyRequest } from "../../api/http-match.ts";
import type { HttpRoute } from "../../api/http-routing.ts";
import { compileRegex, type Regex } from "../../base/regex.ts";
import type { RequestHead } from "../../http.ts";
import { hostOf, pathLength, queryValue } from "./request-target.ts";
import { type CompiledRule, compileRule } from "./rule.ts";

/** What a request came under. Made once per match when routes are compiled, so it may be kept. */
export interface RouteHit {
  readonly rule: CompiledRule;
  /** Index of the match in the rule; 0 where the rule has none. */
  readonly match: number;
  /** The prefix that matched, without a trailing slash; "" where the match is no prefix, or is "/". */
  readonly prefix: string;
}

class Candidate implements RouteHit {
  readonly rule: CompiledRule;
  readonly match: number;
  readonly prefix: string;
  readonly method: string;
  readonly headers: readonly FieldTest[];
  readonly query: readonly FieldTest[];
  /** Of the path, or of service and method. */
  readonly regexes: readonly (Regex | undefined)[];
  /** No path was asked for, so "*" and CONNECT match as well. */
  readonly anyPath: boolean;

  constructor(rule: CompiledRule, match: number, spec: RouteMatch) {
    this.rule = rule;
    this.match = match;
    this.prefix = spec.path?.kind === "prefix" ? withoutSlash(spec.path.value) : "";
    this.method = spec.method;
    this.headers = firstOfEach(spec.headers).map((field) => new FieldTest(field));
    this.query = firstOfEach(spec.query).map((field) => new FieldTest(field));
    this.anyPath = spec.path === undefined;
    this.regexes = regexesOf(spec);
  }

  /** Whether everything but the path holds. */
  holds(head: RequestHead): boolean {
    if (this.method !== "" && this.method !== head.method) return false;
    for (let i = 0; i < this.headers.length; i++) {
      const test = this.headers[i] as FieldTest;
      if (!test.holds(head.header(test.name))) return false;
    }
    for (let i = 0; i < this.query.length; i++) {
      const test = this.query[i] as FieldTest;
      if (!test.holds(queryValue(head.path, test.name))) return false;
    }
    return true;
  }
}

class FieldTest {
  readonly name: string;
  readonly #value: string;
  readonly #regex: Regex | undefined;
  constructor({ name, kind, value }: FieldMatch) {
    this.name = name;
    this.#value = value;
    this.#regex = kind === "regex" ? compiled(value) : undefined;
  }
  holds(value: string | undefined): boolean {
    if (value === undefined) return false;
    return this.#regex === undefined ? value === this.#value : this.#regex.test(value);
  }
}

/** Of several entries of one name only the first counts (Gateway API HTTPHeaderMatch, HTTPQueryParamMatch). */
const firstOfEach = (fields: readonly FieldMatch[]): readonly FieldMatch[] =>
  fields.filter((field, i) => fields.findIndex((other) => other.name === field.name) === i);
const withoutSlash = (prefix: string): string => prefix.replace(/\/+$/, "");
const never: Regex = { source: "", test: () => false };
/** Records were checked when they were decoded; what slipped through matches nothing. */
function compiled(source: string): Regex {
  const result = compileRegex(source);
  return result.ok ? result.value : never;
}
function regexesOf({ path, grpc }: RouteMatch): readonly (Regex | undefined)[] {
  if (path?.kind === "regex") return [compiled(path.value)];
  if (grpc?.kind !== "regex") return [];
  return [grpc.service, grpc.method].map((part) => (part === "" ? undefined : compiled(part)));
}

class PathNode {
  readonly children = new Map<string, PathNode>();
  candidates: Candidate[] = [];
}

/** All that was said for one host name. */
class HostTable {
  readonly exact = new Map<string, Candidate[]>();
  readonly regexes: Candidate[] = [];
  readonly prefixes = new PathNode();
  /** gRPC: by "/service/method", "service", expressions, "method", all. Undefined until there is one. */
  grpc: GrpcTable | undefined;
}
class GrpcTable {
  readonly calls = new Map<string, Candidate[]>();
  readonly services = new Map<string, Candidate[]>();
  readonly regexes: Candidate[] = [];
  readonly methods = new Map<string, Candidate[]>();
  readonly all: Candidate[] = [];
}

export class RouteTable {
  readonly #exactHosts = new Map<string, HostTable>();
  /** By what follows the "*", as ".example". */
  readonly #wildcards = new Map<string, HostTable>();
  #anyHost: HostTable | undefined;
  readonly #hasHosts: boolean;
  readonly size: number;

  /** `routes`: those of one service and port that hold for one client (see routesFor). */
  constructor(routes: readonly HttpRoute[]) {
    const entries = routes.flatMap(entriesOf).sort(compareEntries);
    for (const entry of entries) {
      const hosts = entry.route.hostnames.length === 0 ? [""] : entry.route.hostnames;
      for (const host of new Set(hosts)) insert(this.#hostTable(host), entry.candidate, entry.spec, entry.route.kind);
    }
    this.#hasHosts = this.#exactHosts.size + this.#wildcards.size > 0;
    this.size = entries.length;
  }

  #hostTable(host: string): HostTable {
    if (host === "") {
      this.#anyHost ??= new HostTable();
      return this.#anyHost;
    }
    const isWildcard = host.startsWith("*.");
    const [tables, key] = isWildcard ? [this.#wildcards, host.slice(1)] : [this.#exactHosts, host];
    return getOrMake(tables, key, () => new HostTable());
  }

  find(head: RequestHead): RouteHit | undefined {
    const path = head.path;
    const length = pathLength(path);
    if (this.#hasHosts) {
      const host = hostOf(head.authority);
      const own = this.#exactHosts.get(host);
      let hit = own && findInHost(own, head, path, length);
      if (hit !== undefined) return hit;
      // From the longest wildcard to the shortest.
      if (this.#wildcards.size > 0) {
        for (let dot = host.indexOf(".", 1); dot > 0; dot = host.indexOf(".", dot + 1)) {
          const wide = this.#wildcards.get(host.slice(dot));
          hit = wide && findInHost(wide, head, path, length);
          if (hit !== undefined) return hit;
        }
      }
    }
    return this.#anyHost && findInHost(this.#anyHost, head, path, length);
  }
}

interface Entry {
  readonly route: HttpRoute;
  readonly rule: number;
  readonly match: number;
  readonly spec: RouteMatch;
  readonly candidate: Candidate;
}
function entriesOf(route: HttpRoute): Entry[] {
  return route.rules.flatMap((rule, r) => {
    const ready = compileRule(route, rule, r);
    const matches = rule.matches.length === 0 ? [anyRequest] : rule.matches;
    return matches.map((spec, m) => ({ route, rule: r, match: m, spec, candidate: new Candidate(ready, m, spec) }));
  });
}

/** Precedence of matches with equally good paths (Gateway API HTTPRouteRule.matches). */
function compareEntries(a: Entry, b: Entry): number {
  const regexLength = (entry: Entry): number => (entry.spec.path?.kind === "regex" ? entry.spec.path.value.length : 0);
  return (
    // Expressions are left to implementations: the longest first. All others of one bucket have equal paths.
    regexLength(b) - regexLength(a) ||
    Number(b.spec.method !== "") - Number(a.spec.method !== "") ||
    b.candidate.headers.length - a.candidate.headers.length ||
    b.candidate.query.length - a.candidate.query.length ||
    compareAge(a.route.createdMs, b.route.createdMs) ||
    compareText(`${a.route.namespace}/${a.route.name}`, `${b.route.namespace}/${b.route.name}`) ||
    a.rule - b.rule ||
    a.match - b.match
  );
}
/** The oldest first; one whose age is not known (0) counts as the youngest. */
function compareAge(a: number, b: number): number {
  if (a === b) return 0;
  if (a === 0 || b === 0) return a === 0 ? 1 : -1;
  return a - b;
}
const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function getOrMake<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
const emptyList = (): Candidate[] => [];

function insert(table: HostTable, candidate: Candidate, spec: RouteMatch, kind: HttpRoute["kind"]): void {
  if (kind === "grpc") {
    table.grpc ??= new GrpcTable();
    insertGrpc(table.grpc, candidate, spec);
    return;
  }
  const { path } = spec;
  if (path?.kind === "exact") getOrMake(table.exact, path.value, emptyList).push(candidate);
  else if (path?.kind === "regex") table.regexes.push(candidate);
  else {
    let node = table.prefixes;
    for (const segment of candidate.prefix.split("/").slice(1)) {
      node = getOrMake(node.children, segment, () => new PathNode());
    }
    node.candidates.push(candidate);
  }
}
function insertGrpc(table: GrpcTable, candidate: Candidate, { grpc }: RouteMatch): void {
  if (grpc === undefined || (grpc.service === "" && grpc.method === "")) table.all.push(candidate);
  else if (grpc.kind === "regex") table.regexes.push(candidate);
  else if (grpc.service === "") getOrMake(table.methods, grpc.method, emptyList).push(candidate);
  else if (grpc.method === "") getOrMake(table.services, grpc.service, emptyList).push(candidate);
  else getOrMake(table.calls, `/${grpc.service}/${grpc.method}`, emptyList).push(candidate);
}

function first(candidates: readonly Candidate[] | undefined, head: RequestHead): Candidate | undefined {
  if (candidates === undefined) return undefined;
  for (let i = 0; i < candidates.length; i++) {
    const candidate = candidates[i] as Candidate;
    if (candidate.holds(head)) return candidate;
  }
  return undefined;
}

// gRPC rules come before HTTP rules of the same host (GEP-1426: the more specific kind of route).
function findInHost(table: HostTable, head: RequestHead, target: string, length: number): Candidate | undefined {
  const path = length === target.length ? target : target.slice(0, length);
  let hit = table.grpc && isGrpc(head) ? findGrpc(table.grpc, head, path) : undefined;
  if (hit !== undefined) return hit;
  if (path.charCodeAt(0) !== 47) return findAnyPath(table.prefixes.candidates, head);
  if (table.exact.size > 0) {
    hit = first(table.exact.get(path), head);
    if (hit !== undefined) return hit;
  }
  for (let i = 0; i < table.regexes.length; i++) {
    const candidate = table.regexes[i] as Candidate;
    if (candidate.regexes[0]?.test(path) && candidate.holds(head)) return candidate;
  }
  return findPrefix(table.prefixes, head, path, 1);
}

/** "*" and CONNECT have no path: only rules that ask for none apply. */
function findAnyPath(candidates: readonly Candidate[], head: RequestHead): Candidate | undefined {
  for (const candidate of candidates) if (candidate.anyPath && candidate.holds(head)) return candidate;
  return undefined;
}

/** Deepest node first. `at`: where the next segment begins. */
function findPrefix(node: PathNode, head: RequestHead, path: string, at: number): Candidate | undefined {
  if (node.children.size > 0 && at <= path.length) {
    let end = path.indexOf("/", at);
    if (end < 0) end = path.length;
    const child = node.children.get(path.slice(at, end));
    const hit = child && findPrefix(child, head, path, end + 1);
    if (hit !== undefined) return hit;
  }
  return node.candidates.length === 0 ? undefined : first(node.candidates, head);
}

const isGrpc = (head: RequestHead): boolean => head.header("content-type")?.startsWith("application/grpc") === true;

function findGrpc(table: GrpcTable, head: RequestHead, path: string): Candidate | undefined {
  const slash = path.indexOf("/", 1);
  const isCall = path.charCodeAt(0) === 47 && slash > 1 && path.indexOf("/", slash + 1) < 0;
  if (isCall) {
    const service = path.slice(1, slash);
    const method = path.slice(slash + 1);
    const hit = first(table.calls.get(path), head) ?? first(table.services.get(service), head);
    if (hit !== undefined) return hit;
    for (const candidate of table.regexes) {
      const [serviceTest, methodTest] = candidate.regexes;
      const fits = serviceTest?.test(service) !== false && methodTest?.test(method) !== false;
      if (fits && candidate.holds(head)) return candidate;
    }
    const byMethod = first(table.methods.get(method), head);
    if (byMethod !== undefined) return byMethod;
  }
  return first(table.all, head);
}

/** Which rule `head` falls under; undefined: none (404). */
export const routeRequest = (table: RouteTable, head: RequestHead): RouteHit | undefined => table.find(head);

/** Routes of one service, compiled for each port and kind of client when first asked for. */
export class ServiceRoutes {
  readonly #routes: readonly HttpRoute[];
  readonly #consumers: ReadonlySet<string>;
  readonly #tables = new Map<string, RouteTable | undefined>();

  constructor(routes: readonly HttpRoute[]) {
    this.#routes = routes;
    this.#consumers = new Set(routes.map((route) => route.consumers));
  }

  /** undefined: nothing is said for this port, so every request goes to the service's own endpoints. */
  tableFor(port: number, namespace: string): RouteTable | undefined {
    const client = this.#consumers.has(namespace) ? namespace : "";
    const key = `${port}/${client}`;
    let table = this.#tables.get(key);
    if (table === undefined && !this.#tables.has(key)) {
      const routes = routesFor(this.#routes, port, client);
      table = routes.length === 0 ? undefined : new RouteTable(routes);
      this.#tables.set(key, table);
    }
    return table;
  }
}

/**
 * The routes that hold on a port for clients of a namespace: those of their own namespace alone if there are any (Gateway API, consumer
 * routes), else those for all.
 */
export function routesFor(routes: readonly HttpRoute[], port: number, namespace: string): readonly HttpRoute[] {
  const onPort = routes.filter((route) => route.ports.length === 0 || route.ports.includes(port));
  const own = onPort.filter((route) => route.consumers === namespace && namespace !== "");
  return own.length > 0 ? own : onPort.filter((route) => route.consumers === "");
}
