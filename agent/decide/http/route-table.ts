// Which rule a request falls under, in the order of Gateway API. Routes are compiled once; a decision costs the same with ten routes as
// with ten thousand: a map of hosts, then a map of exact paths, expressions, and a map of prefixes by depth. Pure.
import { anyRequest, type RouteMatch } from "../../api/http-match.ts";
import type { HttpRoute } from "../../api/http-routing.ts";
import type { RequestHead } from "../../http.ts";
import { Candidate, Chains, type Entry, first, firstOfEach } from "./candidate.ts";
import type { Forward, RouteHit } from "./decision.ts";
import { hostOf, pathLength } from "./request-target.ts";
import { type CompiledRule, compileRule } from "./rule.ts";
import { findOfTwo, findText, type TextTable, TwoTables, textTable } from "./text-table.ts";

/** All that was said for one host name. What is empty is undefined: an object less to look at. */
class HostTable extends TwoTables<Entry> {
  readonly kind = "host";
  hasExact = false;
  /** How many segments the longest prefixes have, and then the shorter ones, the most first. So many look-ups find the longest. */
  depth = 0;
  otherDepths: readonly number[] | undefined;
  regexes: Candidate[] | undefined;
  /** gRPC: by "/service/method", "service", expressions, "method", all. */
  grpc: GrpcTable | undefined;
  /** "/" and no path at all. */
  root: Candidate | undefined;
  /** All there is, if it is only "/" for HTTP: then nothing else here is looked at. Set by `seal`, as the tables are. */
  only: Candidate | undefined;
  /** Exact paths and all prefixes but "/", where they are too many to be this table's own cells. */
  exact: TextTable<Entry> | undefined;
  prefixes: TextTable<Entry> | undefined;
  /** In place of a table whose keys fall together. */
  exactMap: ReadonlyMap<string, Entry> | undefined;
  prefixMap: ReadonlyMap<string, Entry> | undefined;
  #building: { exact: Chains; prefixes: Chains; lastRoot: Candidate | undefined } | undefined = {
    exact: new Chains(),
    prefixes: new Chains(),
    lastRoot: undefined,
  };

  /** The decision about every request with a path, if there is but one. */
  get fixed(): Forward | undefined {
    return this.only?.isBare === true ? this.only.fixed : undefined;
  }

  addExact(path: string, candidate: Candidate): void {
    this.#building?.exact.add(path, candidate);
  }

  addPrefix(candidate: Candidate): void {
    const building = this.#building;
    if (building === undefined) return;
    if (candidate.prefix === "") {
      if (building.lastRoot === undefined) this.root = candidate;
      else building.lastRoot.next = candidate;
      building.lastRoot = candidate;
      return;
    }
    building.prefixes.add(candidate.prefix, candidate);
    const added = candidate.prefix.split("/").length - 1;
    const depths = [...new Set([this.depth, ...(this.otherDepths ?? []), added])].sort((a, b) => b - a);
    this.depth = depths[0] as number;
    const others = depths.slice(1).filter((depth) => depth > 0);
    this.otherDepths = others.length === 0 ? undefined : others;
  }

  /** Nothing more will be added. */
  seal(): void {
    if (this.#building === undefined) return;
    const [exact, prefixes] = [this.#building.exact.entries(), this.#building.prefixes.entries()];
    this.#building = undefined;
    this.hasExact = exact.size > 0;
    if (exact.size + prefixes.size > 0 && !this.fill(exact, prefixes)) {
      this.exact = textTable(exact);
      if (this.exact === undefined) this.exactMap = exact;
      this.prefixes = textTable(prefixes);
      if (this.prefixes === undefined) this.prefixMap = prefixes;
    }
    const isRootAlone = exact.size + prefixes.size === 0 && this.regexes === undefined;
    if (isRootAlone && this.grpc === undefined) this.only = this.root;
  }
}
class GrpcTable {
  readonly calls = new Chains();
  readonly services = new Chains();
  readonly regexes: Candidate[] = [];
  readonly methods = new Chains();
  readonly all = new Chains();
}

/** What was said for certain hosts. */
class NamedHosts {
  /** A host for which every path has one decision has that here. */
  readonly #table: TextTable<HostTable | Forward> | undefined;
  readonly #exact: ReadonlyMap<string, HostTable>;
  /** By what follows the "*", as ".example". */
  readonly #wildcards: ReadonlyMap<string, HostTable>;

  constructor(exact: ReadonlyMap<string, HostTable>, wildcards: ReadonlyMap<string, HostTable>) {
    this.#exact = exact;
    this.#wildcards = wildcards;
    this.#table =
      exact.size === 0
        ? undefined
        : textTable(new Map([...exact].map(([host, table]) => [host, table.fixed ?? table])));
  }

  find(head: RequestHead, path: string, length: number): Entry | undefined {
    const host = hostOf(head.authority);
    let own = this.#table && findText(this.#table, host, 0, host.length);
    if (own?.kind === "forward") {
      if (path.charCodeAt(0) === 47) return own;
      own = undefined;
    }
    own ??= this.#exact.get(host);
    let hit = own && findInHost(own, head, path, length);
    if (hit !== undefined || this.#wildcards.size === 0) return hit;
    // From the longest wildcard to the shortest.
    for (let dot = host.indexOf(".", 1); dot > 0; dot = host.indexOf(".", dot + 1)) {
      const wide = this.#wildcards.get(host.slice(dot));
      hit = wide && findInHost(wide, head, path, length);
      if (hit !== undefined) return hit;
    }
    return undefined;
  }
}

/** Itself the table of what was said for any host, so that most requests look at an object less. */
export class RouteTable extends HostTable {
  readonly #named: NamedHosts | undefined;
  readonly size: number;

  /** `routes`: those of one service and port that hold for one client (see routesFor). */
  constructor(routes: readonly HttpRoute[]) {
    super();
    const exact = new Map<string, HostTable>();
    const wildcards = new Map<string, HostTable>();
    const make = (): HostTable => new HostTable();
    const tableOf = (host: string): HostTable => {
      if (host === "") return this;
      return host.startsWith("*.") ? getOrMake(wildcards, host.slice(1), make) : getOrMake(exact, host, make);
    };
    const entries = routes.flatMap(entriesOf).sort(compareEntries);
    for (const entry of entries) {
      const hosts = entry.route.hostnames.length === 0 ? [""] : entry.route.hostnames;
      for (const host of new Set(hosts)) {
        // One object per host, since it is also a link of that host's chain.
        const candidate = new Candidate(entry.ready, entry.match, entry.spec);
        insert(tableOf(host), candidate, entry.spec, entry.route.kind);
      }
    }
    for (const table of [this, ...exact.values(), ...wildcards.values()]) table.seal();
    this.#named = exact.size + wildcards.size === 0 ? undefined : new NamedHosts(exact, wildcards);
    this.size = entries.length;
  }

  /** What `head` falls under: the decision itself where it depends on nothing more; undefined: no rule. */
  find(head: RequestHead): Entry | undefined {
    const path = head.path;
    const length = pathLength(path);
    return this.#named?.find(head, path, length) ?? findInHost(this, head, path, length);
  }
}

interface RouteEntry {
  readonly route: HttpRoute;
  readonly rule: number;
  readonly match: number;
  readonly spec: RouteMatch;
  readonly ready: CompiledRule;
}
function entriesOf(route: HttpRoute): RouteEntry[] {
  return route.rules.flatMap((rule, r) => {
    const ready = compileRule(route, rule, r);
    const matches = rule.matches.length === 0 ? [anyRequest] : rule.matches;
    return matches.map((spec, m) => ({ route, rule: r, match: m, spec, ready }));
  });
}

/** Precedence of matches with equally good paths (Gateway API HTTPRouteRule.matches). */
function compareEntries(a: RouteEntry, b: RouteEntry): number {
  const regexLength = (entry: RouteEntry): number =>
    entry.spec.path?.kind === "regex" ? entry.spec.path.value.length : 0;
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
  if (path?.kind === "exact") table.addExact(path.value, candidate);
  else if (path?.kind === "regex") {
    table.regexes ??= [];
    table.regexes.push(candidate);
  } else table.addPrefix(candidate);
}
function insertGrpc(table: GrpcTable, candidate: Candidate, { grpc }: RouteMatch): void {
  if (grpc === undefined || (grpc.service === "" && grpc.method === "")) table.all.add("", candidate);
  else if (grpc.kind === "regex") table.regexes.push(candidate);
  else if (grpc.service === "") table.methods.add(grpc.method, candidate);
  else if (grpc.method === "") table.services.add(grpc.service, candidate);
  else table.calls.add(`/${grpc.service}/${grpc.method}`, candidate);
}

// gRPC rules come before HTTP rules of the same host (GEP-1426: the more specific kind of route).
function findInHost(table: HostTable, head: RequestHead, target: string, length: number): Entry | undefined {
  const isPath = target.charCodeAt(0) === 47;
  if (table.only !== undefined) return isPath ? first(table.only, head) : findAnyPath(table.only, head);
  let hit: Entry | undefined;
  if (table.grpc !== undefined && isGrpc(head)) {
    hit = findGrpc(table.grpc, head, target.slice(0, length));
    if (hit !== undefined) return hit;
  }
  if (!isPath) return findAnyPath(table.root, head);
  if (table.hasExact) {
    hit = first(findExact(table, target, length), head);
    if (hit !== undefined) return hit;
  }
  if (table.regexes !== undefined) {
    const path = target.slice(0, length);
    for (const candidate of table.regexes) {
      if (candidate.regexes[0]?.test(path) && candidate.holds(head)) return candidate;
    }
  }
  if (table.depth > 0) {
    hit = findPrefix(table, head, target, length);
    if (hit !== undefined) return hit;
  }
  return first(table.root, head);
}

/** "*" and CONNECT have no path: only rules that ask for none apply. */
function findAnyPath(chain: Candidate | undefined, head: RequestHead): Candidate | undefined {
  let candidate = chain;
  while (candidate !== undefined && !(candidate.anyPath && candidate.holds(head))) candidate = candidate.next;
  return candidate;
}

function findExact(table: HostTable, target: string, length: number): Entry | undefined {
  if (table.last >= 0) return findOfTwo(table, false, target, 0, length);
  if (table.exact !== undefined) return findText(table.exact, target, 0, length);
  return table.exactMap?.get(target.slice(0, length));
}

function findPrefix(table: HostTable, head: RequestHead, target: string, length: number): Entry | undefined {
  const { otherDepths } = table;
  let hit = findAtDepth(table, table.depth, head, target, length);
  if (otherDepths === undefined) return hit;
  for (let i = 0; hit === undefined && i < otherDepths.length; i++)
    hit = findAtDepth(table, otherDepths[i] as number, head, target, length);
  return hit;
}
function findAtDepth(
  table: HostTable,
  depth: number,
  head: RequestHead,
  target: string,
  length: number,
): Entry | undefined {
  const end = endOfSegments(target, length, depth);
  if (end < 0) return undefined;
  if (table.last >= 0) return first(findOfTwo(table, true, target, 0, end), head);
  if (table.prefixes !== undefined) return first(findText(table.prefixes, target, 0, end), head);
  return first(table.prefixMap?.get(target.slice(0, end)), head);
}
/** Where the first `count` segments of `target[0..length)` end; -1 if there are fewer. */
function endOfSegments(target: string, length: number, count: number): number {
  let end = 0;
  for (let i = 0; i < count; i++) {
    if (end >= length) return -1;
    end = target.indexOf("/", end + 1);
    if (end < 0 || end > length) end = length;
  }
  return end;
}

const isGrpc = (head: RequestHead): boolean => head.header("content-type")?.startsWith("application/grpc") === true;

function findGrpc(table: GrpcTable, head: RequestHead, path: string): Entry | undefined {
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
export function routeRequest(table: RouteTable, head: RequestHead): RouteHit | undefined {
  const entry = table.find(head);
  return entry?.kind === "forward" ? entry.hit : entry;
}

/** Routes of one service, compiled for each port and kind of client when first asked for. */
export class ServiceRoutes {
  readonly #routes: readonly HttpRoute[];
  readonly #forAll = new Map<number, RouteTable | undefined>();
  /** By namespaces that have routes of their own. */
  readonly #consumers: ReadonlyMap<string, Map<number, RouteTable | undefined>> | undefined;

  constructor(routes: readonly HttpRoute[]) {
    this.#routes = routes;
    const namespaces = new Set(routes.flatMap(({ consumers }) => (consumers === "" ? [] : [consumers])));
    this.#consumers =
      namespaces.size === 0 ? undefined : new Map([...namespaces].map((namespace) => [namespace, new Map()]));
  }

  /** undefined: nothing is said for this port, so every request goes to the service's own endpoints. */
  tableFor(port: number, namespace: string): RouteTable | undefined {
    const tables = this.#consumers?.get(namespace) ?? this.#forAll;
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
