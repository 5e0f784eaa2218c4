// The HTTP lane of one data thread over real sockets, without native: what RequestFlow decides about the requests of a real client.
import { Agent, createServer, type IncomingHttpHeaders, request, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcp, type OnReadOpts, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { createGuardMemory } from "../../agent/app/guard-report.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { seededRandom } from "../../agent/base/random.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { TraceSettings } from "../../agent/decide/trace/request-trace.ts";
import { Downstream } from "../../agent/forward/http1/downstream.ts";
import { defaultExchangeLimits } from "../../agent/forward/http1/exchange.ts";
import { Sweep } from "../../agent/forward/http1/sweep.ts";
import { Http2Downstream } from "../../agent/forward/http2/downstream.ts";
import { Turn } from "../../agent/forward/http2/socket.ts";
import { Pools, type Target } from "../../agent/forward/pools.ts";
import type { HttpProtocol } from "../../agent/forward/sniff.ts";
import type { Tenant } from "../../agent/forward/tenants.ts";
import { Replica } from "../../agent/replica.ts";
import type { EndpointChange } from "../../agent/report/endpoint-changes.ts";
import type { ObserveSettings } from "../../agent/report/observed.ts";
import type { LimitNote } from "../../agent/report/rate-limit-report.ts";
import { RequestSeriesTable } from "../../agent/report/request-series.ts";
import { RequestFlow } from "../../agent/request.ts";
import type { HandedSocket } from "../../agent/threads.ts";
import { Clusters } from "../../agent/upstream/clusters.ts";
import { Guard, type GuardMemory } from "../../agent/upstream/guard.ts";
import { probeFor } from "../../agent/upstream/probe.ts";
import { RequestWays } from "../../agent/upstream/request-ways.ts";
import { createSharedMemory, SharedUpstreams } from "../../agent/upstream/shared.ts";
import { localPod, type MeshParts, member, mesh, service, workload } from "./mesh.ts";
import { watchParts } from "./telemetry.ts";

export const client = workload("shop", "client", "10.244.1.5");
export const web = service("shop", "web", "10.96.0.1", [{ port: 80, nodePort: 0, protocol: "http" }]);
/** A pod behind the service. */
export const endpoint = (name: string, address: string) =>
  workload("shop", name, address, { tunnel: "none", services: [member("shop", "web", 80, 8080)] });

export interface LaneAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
export interface Given {
  readonly direction?: HandedSocket["direction"];
  readonly parts: MeshParts;
  /** Pod address -> where it really listens. */
  readonly at: Readonly<Record<string, number>>;
  readonly identity?: string;
  /** What clients speak. */
  readonly protocol?: HttpProtocol;
  /** How the connections came. */
  readonly tunnel?: HandedSocket["tunnel"];
  /** Whose requests they are. */
  readonly tenant?: Tenant;
  /** How long a pool that is not used is kept, ms. */
  readonly forgetMs?: number;
  /** The servers are pods of this node, as they are inbound. */
  readonly localServers?: boolean;
  readonly observe?: ObserveSettings;
  readonly trace?: TraceSettings;
}

/** As a thread's, and what it was told is at hand at once. */
class NotedGuard extends Guard {
  readonly #noted: LimitNote[];
  constructor(memory: GuardMemory, thread: number, noted: LimitNote[]) {
    super(memory, thread);
    this.#noted = noted;
  }
  override limited(note: LimitNote): void {
    this.#noted.push(note);
  }
}

const memory = (): SharedUpstreams => new SharedUpstreams(createSharedMemory(1, { endpoints: 1024, clusters: 256 }), 0);

/** The requests of a thread's lane behind a listening socket; every connection to it is one that native has handed over. */
export async function lane(t: TestContext, given: Given) {
  const { direction = "outbound", parts, at, identity, tunnel = "plain", tenant, forgetMs = 60_000 } = given;
  const { localServers, protocol = "http1", observe, trace } = given;
  const replica = new Replica();
  for (const resource of mesh(parts).snapshot()) replica.take({ say: "mesh", changed: [resource], removed: [] });
  const served = direction === "inbound" || localServers === true ? (parts.workloads ?? []) : [];
  replica.take({ say: "pods", pods: [client, ...served].map(localPod) });
  replica.take({ say: "knowledge", knowledge: "fresh" });
  const sweep = new Sweep(systemClock);
  const dialled: Target[] = [];
  const dial = (target: Target, onread: OnReadOpts): Promise<Result<Socket, string>> =>
    new Promise((resolve) => {
      dialled.push(target);
      const socket = connect({ port: at[target.endpoint.ip] ?? 1, allowHalfOpen: true, onread });
      socket.once("connect", () => resolve(ok(socket)));
      socket.once("error", () => resolve(err("connect_refused")));
    });
  const limits = defaultExchangeLimits;
  const series = new RequestSeriesTable(100);
  const pools = new Pools({ dial, sweep, limits, forgetMs, standing: () => "unknown" });
  const random = seededRandom(7);
  const malformed: string[] = [];
  const nowMs = (): number => systemClock.monotonicMs();
  const changes: EndpointChange[] = [];
  const { watch, told } = watchParts(observe, trace);
  const clusters = new Clusters(
    {
      replica,
      random,
      nowMs,
      shared: memory(),
      probe: probeFor({ replica, dial, clock: systemClock }),
      decisions: watch.decisions,
      told: (change) => void changes.push(change),
    },
    60_000,
  );
  sweep.add(clusters);
  const limited: LimitNote[] = [];
  const guard = new NotedGuard(createGuardMemory(64), 0, limited);
  const mirrored: string[] = [];
  const flow = {
    guard,
    replica,
    watch,
    pools,
    clusters,
    series,
    random,
    sweep,
    mirrored: (how: string) => void mirrored.push(how),
    nowMs,
    wallMs: () => systemClock.now(),
    malformed: (refused: string) => void malformed.push(refused),
    threw(error: unknown): never {
      throw error;
    },
  };
  const turn = new Turn();
  const open = new Set<Downstream | Http2Downstream>();
  const server = createTcp({ pauseOnConnect: true, allowHalfOpen: true }, (accepted) => {
    const handed: HandedSocket = {
      event: "socket",
      fd: 0,
      id: 1,
      tunnel,
      direction,
      pod: direction === "outbound" ? "shop/client" : "shop/a",
      original: direction === "outbound" ? { ip: "10.96.0.1", port: 80 } : { ip: "10.244.2.1", port: 8080 },
      source: { ip: "10.244.1.5", port: 40_000 },
      planId: 1,
      verdictId: 0,
      protocol,
      ...(identity === undefined ? {} : { identity }),
    };
    const ways = new RequestWays(flow, handed, protocol);
    const handler = (): RequestFlow => new RequestFlow(flow, ways, tenant);
    // The accepted socket stands in for the descriptor: what it reads is given to `onread` as a socket made of one would.
    const adopt = (onread: OnReadOpts): Socket => {
      accepted.on("data", (chunk: Buffer) => {
        for (let from = 0; from < chunk.length; ) {
          const buffer = typeof onread.buffer === "function" ? onread.buffer() : onread.buffer;
          const n = chunk.copy(buffer, 0, from);
          if (!onread.callback(n, buffer)) accepted.pause();
          from += n;
        }
      });
      return accepted;
    };
    const common = { limits, sweep, closed: () => void open.delete(connection) };
    const connection: Downstream | Http2Downstream =
      protocol === "http2"
        ? new Http2Downstream({ ...common, turn, handler }, adopt)
        : new Downstream({ ...common, handler: handler() }, adopt);
    open.add(connection);
    accepted.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const [second, other] = [0, 1].map(() => new Agent({ keepAlive: true, maxSockets: 1 })) as [Agent, Agent];
  t.after(() => {
    agent.destroy();
    second.destroy();
    other.destroy();
    for (const connection of open) connection.destroy();
    pools.drain();
    sweep.stop();
    server.close();
  });
  const ask = (by: Agent, path: string, method = "GET", headers: Readonly<Record<string, string>> = {}, body = "") =>
    new Promise<LaneAnswer>((resolve, reject) => {
      const { port } = server.address() as AddressInfo;
      const asked = request({ port, path, method, agent: by, headers: { host: "web.shop", ...headers } }, (answer) => {
        let text = "";
        answer.on("data", (chunk: Buffer) => {
          text += chunk.toString();
        });
        answer.on("error", reject);
        answer.on("end", () => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: text }));
      });
      asked.on("error", reject);
      asked.end(body);
    });
  type Ask = (path: string, method?: string, headers?: Readonly<Record<string, string>>) => Promise<LaneAnswer>;
  const get: Ask = (...what) => ask(agent, ...what);
  /** The same on a connection of its own. */
  const another: Ask = (...what) => ask(second, ...what);
  const send = (path: string, body: string): Promise<LaneAnswer> => ask(agent, path, "POST", {}, body);
  const third: Ask = (...what) => ask(other, ...what);
  /** A request on a connection of its own, that may be left. */
  const fresh = (path: string): { readonly answer: Promise<LaneAnswer>; leave(): void } => {
    const { port } = server.address() as AddressInfo;
    const ask = request({ port, path, headers: { host: "web.shop" }, agent: false });
    const answer = new Promise<LaneAnswer>((resolve, reject) => {
      ask.on("error", reject);
      ask.on("response", (response) => {
        let body = "";
        response.on("data", (chunk: Buffer) => {
          body += chunk.toString();
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
      });
    });
    // Whoever awaits it hears of its end too.
    answer.catch(() => {});
    ask.end();
    return { answer, leave: () => void ask.destroy() };
  };
  const { port } = server.address() as AddressInfo;
  return {
    port,
    get,
    send,
    another,
    third,
    fresh,
    replica,
    clusters,
    pools,
    dialled,
    series,
    malformed,
    changes,
    limited,
    guard,
    mirrored,
    told,
    watch,
  };
}

/** A server that answers with its name and what it was asked; its port. */
export async function web1(t: TestContext, name: string): Promise<number> {
  const server: Server = createServer((q, s) => void q.resume().on("end", () => s.end(`${name} ${q.method} ${q.url}`)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}
