// Entry of a data thread: takes the sockets that native hands over on this thread's own channel. HTTP is carried request by request
// (request.ts), with decisions from this thread's replica of the state; what turns out to be no HTTP byte for byte, if that is allowed (carried.ts).
import { flushCompileCache } from "node:module";
import type { OnReadOpts, Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { every, systemClock } from "./base/clock.ts";
import { systemRandom } from "./base/random.ts";
import { err } from "./base/result.ts";
import { Carried, isHttp2Port } from "./carried.ts";
import { betweenLimits } from "./forward/between.ts";
import { LaneSockets, type SocketFacts } from "./forward/dial.ts";
import { Downstream } from "./forward/http1/downstream.ts";
import { defaultExchangeLimits } from "./forward/http1/exchange.ts";
import { Refusing } from "./forward/http1/refusing.ts";
import { Sweep } from "./forward/http1/sweep.ts";
import { writeTurn } from "./forward/http1/write-turn.ts";
import { Http2Downstream } from "./forward/http2/downstream.ts";
import { Turn } from "./forward/http2/socket.ts";
import { LaneJoins } from "./forward/joins.ts";
import { Pools, type TargetDialer } from "./forward/pools.ts";
import { type TakeClient, type Takers, UnknownClient } from "./forward/sniff.ts";
import { type Tenant, Tenants } from "./forward/tenants.ts";
import { type Drained, HandedConnections, standingOf, tenantOf } from "./handed.ts";
import { adoptChannel } from "./native.ts";
import { Overtaken } from "./overtaken.ts";
import { Replica } from "./replica.ts";
import { RequestSeriesTable } from "./report/request-series.ts";
import { RequestFlow, type RequestFlowParts } from "./request.ts";
import { startWatching } from "./request-watch.ts";
import type { FromThread, HandedEnd, HandedSocket, ThreadStart, ToThread } from "./threads.ts";
import { Clusters } from "./upstream/clusters.ts";
import { Guard } from "./upstream/guard.ts";
import { probeFor } from "./upstream/probe.ts";
import { RequestWays } from "./upstream/request-ways.ts";
import { SharedUpstreams } from "./upstream/shared.ts";

/** How often what requests added to metrics is told, and how long an unused pool is kept, ms. */
const tellMs = 1_000;
const forgetMs = 60_000;
/** How long a thread that drains must have been without connections before it says so, ms: one may be on its way to it. */
const settleMs = 200;
/** Of a body, bytes that are worth giving to native to move: with fewer, telling it costs more than is saved. */
const leastJoined = 512 * 1024;

const start = workerData as ThreadStart;
const tell = (message: FromThread): void => parentPort?.postMessage(message);

const channel = adoptChannel(
  start.channelFd,
  {
    question: () => null,
    records: () => {},
    event(event) {
      if (event.event === "socket") overtaken.take(event as unknown as HandedSocket);
      else if (event.event === "aborted") sockets.aborted(event.id as number);
      else if (event.event === "moved") joins.moved(event.join as number, event.taken as number, event.moved as number);
    },
    late: (value) => sockets.late(value),
    closed(reason) {
      tell({ say: "failed", reason });
      stop();
    },
  },
  systemClock,
);
const sockets = new LaneSockets(channel);
const joins = new LaneJoins(channel, leastJoined);
const replica = new Replica();
const sweep = new Sweep(systemClock);
const turn = new Turn();
const limits = { ...defaultExchangeLimits, drainIdleMs: start.drainIdleMs };
const tenants = new Tenants(start.limits, {
  afterTurn: (fn) => systemClock.after(1, fn),
  afterLook: (fn) => setImmediate(fn),
  nowUs: () => systemClock.monotonicMs() * 1000,
  cpuUs() {
    const { user, system } = process.threadCpuUsage();
    return user + system;
  },
});
sweep.add(tenants);
const series = new RequestSeriesTable(start.metricSeries);
const guard = new Guard(start.guard, start.thread);
const dial: TargetDialer = async (target, onread, requests) => {
  const dialled = await sockets.dial(target, { onread }, requests && { onread: requests });
  return dialled.ok ? dialled : err(dialled.error.code);
};
const watch = startWatching(start, {
  random: systemRandom,
  clock: systemClock,
  tell: (batch) => tell({ say: "observed", batch }),
});
const clusters = new Clusters(
  {
    replica,
    random: systemRandom,
    shared: new SharedUpstreams(start.shared, start.thread),
    nowMs: () => systemClock.monotonicMs(),
    probe: probeFor({ replica, dial, clock: systemClock }),
    decisions: watch.decisions,
    told: (change) => tell({ say: "endpoint", change }),
  },
  forgetMs,
);
sweep.add(clusters);
/** Copies of requests that ended since it was last told, by how. */
const mirrored = new Map<string, number>();
const flow: RequestFlowParts = {
  replica,
  pools: new Pools({ dial, sweep, limits, forgetMs, standing: (ip) => standingOf(replica, ip), turn }),
  clusters,
  series,
  guard,
  watch,
  random: systemRandom,
  sweep,
  mirrored: (how) => void mirrored.set(how, (mirrored.get(how) ?? 0) + 1),
  nowMs: () => systemClock.monotonicMs(),
  wallMs: () => systemClock.now(),
  malformed: (refused) => tell({ say: "malformed", refused }),
  threw: (error) =>
    tell({ say: "threw", error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
};
const ended = (handed: HandedEnd): void => tell({ say: "ended", handed });
const refusing = new Refusing(sweep);
const carried = new Carried({ replica, sockets, clock: systemClock, ended });
let drainAsk = 0;
const handedOver = new HandedConnections({
  replica,
  empty() {
    flow.pools.closeIdle();
    systemClock.after(settleMs, () => {
      if (handedOver.size === 0) tell({ say: "drained", ask: drainAsk });
    });
  },
});
const overtaken = new Overtaken(replica, systemClock, take);
const stopTelling = every(systemClock, tellMs, tellRequests);

function tellRequests(): void {
  const ended = series.flush();
  if (ended !== undefined) tell({ say: "requests", ended });
  const refusals = tenants.takeRefusals();
  if (refusals.length > 0) tell({ say: "limited", refusals });
  const told = guard.flush();
  if (told !== undefined) tell({ say: "guarded", told });
  const decided = watch.decisions.flush();
  if (decided !== undefined) tell({ say: "decided", told: decided });
  if (mirrored.size > 0) tell({ say: "mirrored", counts: [...mirrored] });
  mirrored.clear();
  const noted = watch.notes.take();
  if (noted.length > 0) tell({ say: "notes", notes: noted });
}

function factsOf({ fd, id, tunnel, cookie }: HandedSocket): SocketFacts {
  return {
    fd,
    id,
    paired: tunnel !== "plain" && tunnel !== "local",
    ...(typeof cookie === "number" ? { cookie } : {}),
  };
}

function take(handed: HandedSocket): void {
  const { protocol } = handed;
  const tenant = tenants.of(tenantOf(handed));
  if (!tenant.open()) {
    const why = `namespace ${tenant.namespace} has ${tenant.connections} connections here, its limit`;
    if (protocol === "http2") sockets.adopt(factsOf(handed)).reset();
    else refusing.refuse(sockets.adopt(factsOf(handed)), `${why} (FAIRLEAD_NAMESPACE_CONNECTIONS)`);
    return;
  }
  // A flood of connections waits for its turns too.
  if (!tenant.isOut) {
    serve(handed, tenant);
    return;
  }
  handedOver.willBegin();
  tenant.wait({
    goOn() {
      handedOver.beginsNow();
      serve(handed, tenant);
    },
  });
}

function serve(handed: HandedSocket, tenant: Tenant): void {
  const startUs = tenant.startUs();
  begin(handed, tenant);
  tenant.noteRead(startUs);
}

function begin(handed: HandedSocket, tenant: Tenant): void {
  const { protocol } = handed;
  const closed = (): void => {
    tenant.close();
    handedOver.ended(connection);
  };
  const open = (onread: OnReadOpts): Socket => sockets.adopt(factsOf(handed), { onread });
  const isNamed = protocol === "http1" || protocol === "http2";
  let connection: Drained;
  if (handed.requests === true) connection = takeBetween(handed, tenant, closed, open);
  else if (isNamed) connection = takersOf(handed, tenant, closed, false)[protocol](open);
  else {
    const isHttp2 = isHttp2Port(replica, handed);
    const takers = takersOf(handed, tenant, closed, isHttp2);
    connection = new UnknownClient(open, takers, closed, systemClock, { ...limits, isHttp2Port: isHttp2 });
  }
  handedOver.add(connection, handed);
}

/** Whoever reads this connection, by what its client speaks. `isHttp2`: its port is declared so. */
function takersOf(handed: HandedSocket, tenant: Tenant, closed: () => void, isHttp2: boolean): Takers {
  const parts = { limits, sweep, closed, joiner: joins };
  const http1: TakeClient = (open) => {
    const handler = new RequestFlow(flow, new RequestWays(flow, handed), tenant);
    const client = new Downstream({ ...parts, handler }, open);
    client.tenant = tenant;
    return client;
  };
  const http2: TakeClient = (open) => {
    const ways = new RequestWays(flow, handed, "http2");
    const client = new Http2Downstream({ ...parts, turn, handler: () => new RequestFlow(flow, ways, tenant) }, open);
    client.tenant = tenant;
    return client;
  };
  // Where it is not allowed, it is told so by whoever takes it for bad HTTP.
  const bad = isHttp2 ? http2 : http1;
  return {
    http1,
    http2,
    other: (open) => (carried.isAllowed(handed) ? carried.taker(handed, closed)(open) : bad(open)),
  };
}

/** HTTP/2 of the data thread on the client's node: its requests are those of HTTP/1.1 clients, and go on as such. */
function takeBetween(
  handed: HandedSocket,
  tenant: Tenant,
  closed: () => void,
  open: (onread: OnReadOpts) => Socket,
): Drained {
  const ways = new RequestWays(flow, handed);
  const handler = (): RequestFlow => new RequestFlow(flow, ways, tenant);
  const parts = { limits, sweep, closed, turn, handler, http2Limits: betweenLimits, isHttp1: true };
  const client = new Http2Downstream(parts, open);
  client.tenant = tenant;
  return client;
}

/** The channel goes first: what ends after it did not end in order, and native resets its other side. */
function stop(): void {
  writeTurn.flush();
  stopTelling();
  tellRequests();
  watch.observer.close();
  channel.close();
  sockets.close();
  flow.pools.drain();
  sweep.stop();
  parentPort?.close();
}

parentPort?.on("message", (message: ToThread) => {
  if (message.say === "stop") stop();
  else if (message.say === "ping") tell({ say: "pong" });
  else if (message.say === "taps") watch.observer.setTaps(message.taps);
  else if (message.say === "read") watch.observer.read();
  else if (message.say === "replicated") {
    flushCompileCache();
    tell({ say: "ready" });
  } else if (message.say === "drain") {
    drainAsk = message.ask;
    handedOver.drain();
  } else {
    const changes = replica.take(message);
    overtaken.review();
    carried.review();
    if (message.say === "pods" || (changes !== undefined && changes.addresses.size > 0)) {
      flow.pools.review();
      handedOver.review();
    }
  }
});
