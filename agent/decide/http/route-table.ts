// Which rule a request falls under, in the order of Gateway API. Routes are compiled once; a decision costs the same with ten routes as
// with ten thousand: a map of hosts, then a map of exact paths, expressions, and a trie of path segments. Pure.
import type { FieldMatch, RouteMatch } from "../../api/http-match.ts";
import { anyRequest } from "../../api/http-match.ts";
import type { HttpRoute } from "../../api/http-routing.ts";
import { compileRegex, type Regex } from "../../base/regex.ts";
import type { RequestHead } from "../../http.ts";
import { type Forward, fixedForward, type RouteHit } from "./decision.ts";
import { hostOf, pathLength, queryValue } from "./request-target.ts";
import { type CompiledRule, compileRule } from "./rule.ts";

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
  readonly fixed: Forward | undefined;
  /** Nothing but the path is asked for. */
  readonly #isBare: boolean;
  /** The one that is tried after this, of those with the same path. */
  next: Candidate | undefined;

  constructor(rule: CompiledRule, match: number, spec: RouteMatch) {
    this.rule = rule;
    this.match = match;
    this.prefix = spec.path?.kind === "prefix" ? withoutSlash(spec.path.value) : "";
    this.method = spec.method;
    this.headers = firstOfEach(spec.headers).map((field) => new FieldTest(field));
    this.query = firstOfEach(spec.query).map((field) => new FieldTest(field));
    this.anyPath = spec.path === undefined;
    this.regexes = regexesOf(spec);
    this.#isBare = this.method === "" && this.headers.length === 0 && this.query.length === 0;
    this.next = undefined;
    this.fixed = fixedForward(this);
  }

  /** Whether everything but the path holds. */
  holds(head: RequestHead): boolean {
    if (this.#isBare) return true;
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

/** Candidates of one path in the order of precedence: the first, and the last to append to. */
class Chain {
  readonly first: Candidate;
  last: Candidate;
  constructor(first: Candidate) {
    this.first = first;
    this.last = first;
  }
}
/** While it is built. Requests meet the map of first candidates alone: each object less is a line of cache less. */
class Chains {
  readonly firsts = new Map<string, Candidate>();
  readonly #chains = new Map<string, Chain>();
  add(key: string, candidate: Candidate): void {
    const chain = this.#chains.get(key);
    if (chain === undefined) {
      this.#chains.set(key, new Chain(candidate));
      this.firsts.set(key, candidate);
    } else {
      chain.last.next = candidate;
      chain.last = candidate;
    }
  }
}

/** All that was said for one host name. */
class HostTable {
  readonly exact = new Chains();
  readonly exactFirsts = this.exact.firsts;
  readonly regexes: Candidate[] = [];
  readonly prefixes = new Chains();
  readonly prefixFirsts = this.prefixes.firsts;
  /** How many segments prefixes have, the most first; "/" has none. So many look-ups find the longest. */
  depths: number[] = [];
  /** gRPC: by "/service/method", "service", expressions, "method", all. Undefined until there is one. */
  grpc: GrpcTable | undefined;
}
class GrpcTable {
  readonly calls = new Chains();
  readonly services = new Chains();
  readonly regexes: Candidate[] = [];
  readonly methods = new Chains();
  readonly all = new Chains();
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
      for (const host of new Set(hosts)) {
        // One object per host, since it is also a link of that host's chain.
        const candidate = new Candidate(entry.ready, entry.match, entry.spec);
        insert(this.#hostTable(host), candidate, entry.spec, entry.route.kind);
      }
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
  readonly ready: CompiledRule;
}
function entriesOf(route: HttpRoute): Entry[] {
  return route.rules.flatMap((rule, r) => {
    const ready = compileRule(route, rule, r);
    const matches = rule.matches.length === 0 ? [anyRequest] : rule.matches;
    return matches.map((spec, m) => ({ route, rule: r, match: m, spec, ready }));
  });
}

/** Precedence of matches with equally good paths (Gateway API HTTPRouteRule.matches). */
function compareEntries(a: Entry, b: Entry): number {
  const regexLength = (entry: Entry): number => (entry.spec.path?.kind === "regex" ? entry.spec.path.value.length : 0);
  return (
    // Expressions are left to implementations: the longest first. All others of one bucket have equal paths.
    regexLength(b) - regexLength(a) ||
    Number(b.spec.method !== "") - Number(a.spec.method !== "") ||
    firstOfEach(b.spec.headers).length - firstOfEach(a.spec.headers).length ||
    firstOfEach(b.spec.query).length - firstOfEach(a.spec.query).length ||
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

function insert(table: HostTable, candidate: Candidate, spec: RouteMatch, kind: HttpRoute["kind"]): void {
  if (kind === "grpc") {
    table.grpc ??= new GrpcTable();
    insertGrpc(table.grpc, candidate, spec);
    return;
  }
  const { path } = spec;
  if (path?.kind === "exact") table.exact.add(path.value, candidate);
  else if (path?.kind === "regex") table.regexes.push(candidate);
  else {
    table.prefixes.add(candidate.prefix, candidate);
    const depth = candidate.prefix.split("/").length - 1;
    if (!table.depths.includes(depth)) table.depths = [...table.depths, depth].sort((a, b) => b - a);
  }
}
function insertGrpc(table: GrpcTable, candidate: Candidate, { grpc }: RouteMatch): void {
  if (grpc === undefined || (grpc.service === "" && grpc.method === "")) table.all.add("", candidate);
  else if (grpc.kind === "regex") table.regexes.push(candidate);
  else if (grpc.service === "") table.methods.add(grpc.method, candidate);
  else if (grpc.method === "") table.services.add(grpc.service, candidate);
  else table.calls.add(`/${grpc.service}/${grpc.method}`, candidate);
}

function first(chain: Candidate | undefined, head: RequestHead): Candidate | undefined {
  let candidate = chain;
  while (candidate !== undefined && !candidate.holds(head)) candidate = candidate.next;
  return candidate;
}

// gRPC rules come before HTTP rules of the same host (GEP-1426: the more specific kind of route).
function findInHost(table: HostTable, head: RequestHead, target: string, length: number): Candidate | undefined {
  const path = length === target.length ? target : target.slice(0, length);
  let hit = table.grpc && isGrpc(head) ? findGrpc(table.grpc, head, path) : undefined;
  if (hit !== undefined) return hit;
  if (path.charCodeAt(0) !== 47) return findAnyPath(table.prefixFirsts.get(""), head);
  if (table.exactFirsts.size > 0) {
    hit = first(table.exactFirsts.get(path), head);
    if (hit !== undefined) return hit;
  }
  for (let i = 0; i < table.regexes.length; i++) {
    const candidate = table.regexes[i] as Candidate;
    if (candidate.regexes[0]?.test(path) && candidate.holds(head)) return candidate;
  }
  return findPrefix(table, head, path);
}

/** "*" and CONNECT have no path: only rules that ask for none apply. */
function findAnyPath(chain: Candidate | undefined, head: RequestHead): Candidate | undefined {
  let candidate = chain;
  while (candidate !== undefined && !(candidate.anyPath && candidate.holds(head))) candidate = candidate.next;
  return candidate;
}

function findPrefix(table: HostTable, head: RequestHead, path: string): Candidate | undefined {
  const { depths, prefixFirsts } = table;
  for (let i = 0; i < depths.length; i++) {
    const end = endOfSegments(path, depths[i] as number);
    if (end < 0) continue;
    const hit = first(prefixFirsts.get(end === path.length ? path : path.slice(0, end)), head);
    if (hit !== undefined) return hit;
  }
  return undefined;
}
/** Where the first `count` segments end; -1 if there are fewer. */
function endOfSegments(path: string, count: number): number {
  let end = 0;
  for (let i = 0; i < count; i++) {
    if (end >= path.length) return -1;
    end = path.indexOf("/", end + 1);
    if (end < 0) end = path.length;
  }
  return end;
}

const isGrpc = (head: RequestHead): boolean => head.header("content-type")?.startsWith("application/grpc") === true;

function findGrpc(table: GrpcTable, head: RequestHead, path: string): Candidate | undefined {
  const slash = path.indexOf("/", 1);
  const isCall = path.charCodeAt(0) === 47 && slash > 1 && path.indexOf("/", slash + 1) < 0;
  if (isCall) {
    const service = path.slice(1, slash);
    const method = path.slice(slash + 1);
    const hit = first(table.calls.firsts.get(path), head) ?? first(table.services.firsts.get(service), head);
    if (hit !== undefined) return hit;
    for (const candidate of table.regexes) {
      const [serviceTest, methodTest] = candidate.regexes;
      const fits = serviceTest?.test(service) !== false && methodTest?.test(method) !== false;
      if (fits && candidate.holds(head)) return candidate;
    }
    const byMethod = first(table.methods.firsts.get(method), head);
    if (byMethod !== undefined) return byMethod;
  }
  return first(table.all.firsts.get(""), head);
}

/** Which rule `head` falls under; undefined: none (404). */
export const routeRequest = (table: RouteTable, head: RequestHead): RouteHit | undefined => table.find(head);

/** Routes of one service, compiled for each port and kind of client when first asked for. */
export class ServiceRoutes {
  readonly #routes: readonly HttpRoute[];
  readonly #forAll = new Map<number, RouteTable | undefined>();
  /** By namespaces that have routes of their own. */
  readonly #consumers: ReadonlyMap<string, Map<number, RouteTable | undefined>>;

  constructor(routes: readonly HttpRoute[]) {
    this.#routes = routes;
    const namespaces = new Set(routes.flatMap(({ consumers }) => (consumers === "" ? [] : [consumers])));
    this.#consumers = new Map([...namespaces].map((namespace) => [namespace, new Map()]));
  }

  /** undefined: nothing is said for this port, so every request goes to the service's own endpoints. */
  tableFor(port: number, namespace: string): RouteTable | undefined {
    const tables = (this.#consumers.size > 0 && this.#consumers.get(namespace)) || this.#forAll;
    const table = tables.get(port);
    return table !== undefined || tables.has(port) ? table : this.#compile(tables, port, namespace);
  }
  #compile(tables: Map<number, RouteTable | undefined>, port: number, namespace: string): RouteTable | undefined {
    const routes = routesFor(this.#routes, port, namespace);
    const table = routes.length === 0 ? undefined : new RouteTable(routes);
    tables.set(port, table);
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
