// Entry of a data thread: takes the sockets that native hands over on this thread's own channel. HTTP is carried request by request
// (request.ts), with decisions from this thread's replica of the state; everything else byte for byte.
import { connect, type OnReadOpts, Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { every, systemClock } from "./base/clock.ts";
import { systemRandom } from "./base/random.ts";
import { err, ok, type Result } from "./base/result.ts";
import { carry } from "./forward/carry.ts";
import { Downstream } from "./forward/http1/downstream.ts";
import { defaultExchangeLimits } from "./forward/http1/exchange.ts";
import { Sweep } from "./forward/http1/sweep.ts";
import { Pools, type Target } from "./forward/pools.ts";
import { adoptChannel } from "./native.ts";
import { Replica } from "./replica.ts";
import { RequestSeriesTable } from "./report/request-series.ts";
import { RequestFlow, type RequestFlowParts } from "./request.ts";
import type { FromThread, HandedSocket, ThreadStart, ToThread } from "./threads.ts";

/** How often what requests added to metrics is told, and how long an unused pool is kept, ms. */
const tellMs = 1_000;
const forgetMs = 60_000;

const start = workerData as ThreadStart;
const tell = (message: FromThread): void => parentPort?.postMessage(message);
const open = new Set<{ destroy(): void }>();
const replica = new Replica();
const sweep = new Sweep(systemClock);
const limits = defaultExchangeLimits;
const series = new RequestSeriesTable(start.metricSeries);
const flow: RequestFlowParts = {
  replica,
  pools: new Pools({ dial, sweep, limits, forgetMs }),
  series,
  random: systemRandom,
  settings: { detectMs: 0 },
  nowMs: () => systemClock.monotonicMs(),
  malformed: () => {},
};

const channel = adoptChannel(
  start.channelFd,
  {
    question: () => null,
    records: () => {},
    event(event) {
      if (event.event === "socket") void take(event as unknown as HandedSocket);
    },
    closed(reason) {
      tell({ say: "failed", reason });
      stop();
    },
  },
  systemClock,
);
const stopTelling = every(systemClock, tellMs, tellRequests);

function tellRequests(): void {
  const ended = series.flush();
  if (ended !== undefined) tell({ say: "requests", ended });
}

async function take(handed: HandedSocket): Promise<void> {
  if (handed.protocol === "http1") return http1(handed);
  // Both directions stay open until each side has ended its own: half-close passes through (INT-9).
  const client = new Socket({ fd: handed.fd, readable: true, writable: true, allowHalfOpen: true });
  open.add(client);
  const { sent, received, error } = await carry(client, handed.upstream ?? handed.original);
  open.delete(client);
  const { planId, verdictId } = handed;
  tell({ say: "ended", handed: { planId, verdictId, sent, received, ...(error === undefined ? {} : { error }) } });
}

function http1(handed: HandedSocket): void {
  const handler = new RequestFlow(flow, handed);
  const closed = (connection: Downstream): void => void open.delete(connection);
  const connection = new Downstream(
    { handler, limits, sweep, closed },
    (onread) => new Socket({ fd: handed.fd, readable: true, writable: true, allowHalfOpen: true, onread }),
  );
  open.add(connection);
}

function dial({ endpoint }: Target, onread: OnReadOpts): Promise<Result<Socket, string>> {
  return new Promise((resolve) => {
    const socket = connect({ host: endpoint.ip, port: endpoint.port, allowHalfOpen: true, noDelay: true, onread });
    socket.once("connect", () => resolve(ok(socket)));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      resolve(err(error.code === "ECONNREFUSED" ? "connect_refused" : "connect_failed")),
    );
  });
}

function stop(): void {
  stopTelling();
  tellRequests();
  for (const connection of open) connection.destroy();
  flow.pools.drain();
  sweep.stop();
  channel.close();
  parentPort?.close();
}

parentPort?.on("message", (message: ToThread) => {
  if (message.say === "stop") stop();
  else if (message.say === "ping") tell({ say: "pong" });
  else if (message.say === "replicated") tell({ say: "ready" });
  else replica.take(message);
});
