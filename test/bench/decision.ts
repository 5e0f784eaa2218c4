// Cost of a decision of the HTTP lane (route, filters, backend, endpoint) with 10 routes against 10,000, and of each balancer's pick.
// `--rounds N`, `--json FILE`. One thread, no sockets; paths and hosts are cut from bytes for each request, as a codec does.
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { anyRequest, type PathMatch } from "../../agent/api/http-match.ts";
import { noTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRoute } from "../../agent/api/http-routing.ts";
import { type ServiceName, serviceName } from "../../agent/api/names.ts";
import { seededRandom } from "../../agent/base/random.ts";
import { EndpointStats } from "../../agent/decide/balance/endpoint-stats.ts";
import type { Picker } from "../../agent/decide/balance/picker.ts";
import { decideRequest } from "../../agent/decide/http/decide-request.ts";
import { type RouteTable, ServiceRoutes } from "../../agent/decide/http/route-table.ts";
import type { HeaderList, RequestHead } from "../../agent/http.ts";
import { endpointsOf, even, everyAlgorithm, pickerFor } from "../kit/pickers.ts";

const random = seededRandom(11);

function routeOf(name: string, backend: ServiceName, path: PathMatch, hostnames: readonly string[] = []): HttpRoute {
  const filters = [{ kind: "requestHeaders", value: { remove: [], set: ["x-route", name], add: [] } }] as const;
  const backends = [{ service: backend, port: 80, weight: 1, filters: [], subset: {}, invalid: "" }];
  const matches = [{ ...anyRequest, path }];
  const rule = { name: "", matches, filters, backends, timeouts: noTimeouts, retry: undefined, affinity: undefined };
  return { kind: "http", name, namespace: "shop", createdMs: 0, ports: [], consumers: "", hostnames, rules: [rule] };
}

/** A head as codecs give it: what is asked for is cut from the bytes then. */
class BenchHead implements RequestHead {
  readonly method = "GET";
  readonly scheme = "http";
  authority = "";
  path = "";
  header(name: string): string | undefined {
    return name === "accept" ? "*/*" : undefined;
  }
  headers(): HeaderList {
    return ["accept", "*/*"];
  }
}

interface Shape {
  readonly name: string;
  /** Services with `each` routes. */
  readonly services: number;
  readonly each: number;
  readonly endpoints: number;
  readonly route: (service: number, i: number) => HttpRoute;
  readonly path: (i: number) => string;
  readonly host: (i: number) => string;
}
const backendOf = (i: number): ServiceName => serviceName("shop", `s${i}`);
const oneTable = (count: number, kind: "exact" | "prefix"): Shape => ({
  name: `${kind} paths of one service`,
  services: 1,
  each: count,
  endpoints: 10,
  route: (s, i) => routeOf(`r${i}`, backendOf(s), { kind, value: `/api/v1/resource-${i}` }),
  path: (i) => `/api/v1/resource-${i}${kind === "exact" ? "" : "/items/17"}?page=3`,
  host: () => "web.shop.svc.cluster.local:80",
});
const byHost = (count: number): Shape => ({
  ...oneTable(count, "prefix"),
  name: "hosts of one service",
  route: (s, i) => routeOf(`r${i}`, backendOf(s), { kind: "prefix", value: "/" }, [`tenant-${i}.example`]),
  path: () => "/items/17?page=3",
  host: (i) => `tenant-${i}.example`,
});
const mesh = (services: number, endpoints: number): Shape => ({
  ...oneTable(10, "prefix"),
  name: "10 routes each of 1,000 services with 10 endpoints",
  services,
  endpoints,
});
const pairs: readonly (readonly [Shape, Shape])[] = [
  [oneTable(10, "exact"), oneTable(10_000, "exact")],
  [oneTable(10, "prefix"), oneTable(10_000, "prefix")],
  [byHost(10), byHost(10_000)],
  [mesh(1, 10), mesh(1000, 10)],
];

/** Which of n a request is for: each as likely, or as traffic is, the k-th in proportion to 1/k (Zipf). */
type Spread = "uniform" | "zipf";
const draw = (spread: Spread, n: number): number =>
  spread === "uniform" ? random.below(n) : Math.min(n - 1, Math.floor((n + 1) ** random.next()) - 1);

const requests = 65_536;
/** Requests whose time is taken at once: about a millisecond, so that what else the machine does falls on few of them. */
const block = 2048;

/** Requests to all routes of a shape in random order. The result decides those from `begin` to `begin + block` and gives the ns of each. */
function prepare(shape: Shape, spread: Spread): (begin: number) => number {
  // As a connection keeps it (request-ways.ts).
  const tables: (RouteTable | undefined)[] = [];
  const pickers: Picker[] = [];
  const stats = new EndpointStats(shape.services * shape.endpoints);
  for (let s = 0; s < shape.services; s++) {
    const routes = new ServiceRoutes(Array.from({ length: shape.each }, (_, i) => shape.route(s, i)));
    tables.push(routes.tableFor(80, "shop"));
    const slots = endpointsOf(even(shape.endpoints), (i) => ({ slot: s * shape.endpoints + i }));
    pickers.push(pickerFor("ewma", slots, { stats }));
  }
  const services = Int32Array.from({ length: requests }, () => draw(spread, shape.services));
  // One behind the other, as reads bring them.
  const begins = new Int32Array(requests + 1);
  const cuts = new Int32Array(requests);
  const texts = Array.from({ length: requests }, (_, r) => {
    const i = draw(spread, shape.each);
    const [path, host] = [shape.path(i), shape.host(i)];
    cuts[r] = (begins[r] as number) + path.length;
    begins[r + 1] = (cuts[r] as number) + host.length;
    return path + host;
  });
  const bytes = Buffer.from(texts.join(""), "latin1");
  const head = new BenchHead();
  const context = { random, nowMs: 0, faults: true };
  return (from) => {
    let found = 0;
    const begin = process.hrtime.bigint();
    for (let i = from; i < from + block; i++) {
      const cut = cuts[i] as number;
      head.path = bytes.toString("latin1", begins[i], cut);
      head.authority = bytes.toString("latin1", cut, begins[i + 1]);
      const service = services[i] as number;
      const table = tables[service];
      const decision = table && decideRequest(table, head, context);
      if (decision?.kind !== "forward") continue;
      found += (pickers[service] as Picker).pick(random, 0, -1) >= 0 ? 1 : 0;
    }
    const ns = Number(process.hrtime.bigint() - begin) / block;
    if (found !== block) throw new Error(`${shape.name}: ${found} of ${block} found their route`);
    return ns;
  };
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;

type Times = readonly [few: number, many: number];
/** All requests once of both, a block of each in turns, so that what else the machine does falls on both. Medians of blocks, ns a decision. */
function inTurns(runs: readonly [(begin: number) => number, (begin: number) => number]): Times {
  const times: [number[], number[]] = [[], []];
  for (let begin = 0; begin < requests; begin += block) {
    const turns = (begin / block) % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const);
    for (const which of turns) times[which].push(runs[which](begin));
  }
  return [median(times[0]), median(times[1])];
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** `rounds` of both, on a few layouts in memory and drawings of requests each. */
function measure(few: Shape, many: Shape, spread: Spread, rounds: number): Times[] {
  const times: Times[] = [];
  const layouts = Math.min(rounds, 5);
  for (let layout = 0; layout < layouts; layout++) {
    const runs = [prepare(few, spread), prepare(many, spread)] as const;
    collectGarbage();
    inTurns(runs);
    while (times.length < (rounds * (layout + 1)) / layouts) times.push(inTurns(runs));
  }
  return times;
}

function main(): void {
  const { values } = parseArgs({ options: { rounds: { type: "string", default: "15" }, json: { type: "string" } } });
  const rounds = Number(values.rounds);
  const rows: object[] = [];
  const measures = pairs.flatMap(([a, b]) => [[a, b, "zipf"] as const, [a, b, "uniform"] as const]);
  // All of them first, so that the compiler has seen every shape before anything is measured.
  for (const [few, many, spread] of measures) measure(few, many, spread, 2);
  for (const [few, many, spread] of measures) {
    const times = measure(few, many, spread, rounds);
    const [ns10, ns10000] = [median(times.map(([few]) => few)), median(times.map(([, many]) => many))];
    // Of the same round, since the machine is faster in some than in others.
    const ratio = median(times.map(([few, many]) => many / few));
    rows.push({ measure: `${many.name}, ${spread}`, ns10, ns10000, ratio, raw: times });
    const each = times.map(([few, many]) => many / few).sort((a, b) => a - b);
    console.log(
      `${many.name}, ${spread}: ${ns10.toFixed(0)} ns with 10 routes, ${ns10000.toFixed(0)} ns with 10,000: ${ratio.toFixed(2)}x (${each[0]?.toFixed(2)}-${each.at(-1)?.toFixed(2)})`,
    );
  }
  for (const algorithm of everyAlgorithm) {
    const nsOf = [10, 1000].map((n) => {
      const picker = pickerFor(algorithm, endpointsOf(even(n)));
      const picks = algorithm === "rendezvous" ? 20_000 : 200_000;
      const run = (): number => {
        const begin = process.hrtime.bigint();
        for (let i = 0; i < picks; i++) picker.pick(random, random.below(2 ** 32), -1);
        return Number(process.hrtime.bigint() - begin) / picks;
      };
      run();
      return median(Array.from({ length: 7 }, run));
    });
    rows.push({ measure: `pick ${algorithm}`, ns10: nsOf[0], ns1000: nsOf[1] });
    console.log(`pick ${algorithm}: ${nsOf[0]?.toFixed(0)} ns of 10 endpoints, ${nsOf[1]?.toFixed(0)} ns of 1,000`);
  }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, undefined, 1)}\n`);
}
main();
