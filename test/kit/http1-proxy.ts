// A little proxy out of the parts of agent/forward/http1, on loopback: accepts with Node, hands each socket's handle to a Downstream.
import { connect, createServer, type OnReadOpts, Socket } from "node:net";
import { systemClock } from "../../agent/base/clock.ts";
import { err, ok } from "../../agent/base/result.ts";
import { Downstream } from "../../agent/forward/http1/downstream.ts";
import {
  type Dialer,
  defaultExchangeLimits,
  type ExchangeLimits,
  type Handler,
} from "../../agent/forward/http1/exchange.ts";
import { UpstreamPool } from "../../agent/forward/http1/pool.ts";
import { Sweep } from "../../agent/forward/http1/sweep.ts";
import { defaultPoolLimits, type PoolLimits } from "../../agent/forward/server-pool.ts";
import type { Tenant } from "../../agent/forward/tenants.ts";
import type { JoinedLane } from "./joined-lane.ts";

export interface Http1Proxy {
  readonly port: number;
  readonly pool: UpstreamPool;
  readonly connections: ReadonlySet<Downstream>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A plain TCP connection; the error is a word for records. */
export const dialPlain: Dialer = (endpoint, onread) =>
  new Promise((resolve) => {
    const socket = connect({ host: endpoint.ip, port: endpoint.port, onread, noDelay: true, allowHalfOpen: true });
    const failed = (error: NodeJS.ErrnoException): void =>
      resolve(err(error.code === "ECONNREFUSED" ? "connect_refused" : "connect_failed"));
    socket.once("error", failed);
    socket.once("connect", () => {
      socket.off("error", failed);
      resolve(ok(socket));
    });
  });

/** Everything that comes goes to 127.0.0.1:`to`, unless the handler says otherwise. */
export async function startProxy(
  to: number,
  options: {
    readonly handler?: Partial<Handler>;
    readonly limits?: Partial<ExchangeLimits>;
    readonly pool?: Partial<PoolLimits>;
    readonly dial?: Dialer;
    /** Listens on a Unix socket instead: what native hands over as a socket pair. */
    readonly path?: string;
    /** Long bodies are moved by native, whose sockets these then are. */
    readonly lane?: JoinedLane;
    /** Whose share of the thread the clients use. */
    readonly tenant?: Tenant;
  } = {},
): Promise<Http1Proxy> {
  const limits = { ...defaultExchangeLimits, ...options.limits };
  const sweep = new Sweep(systemClock, 20);
  const pool = new UpstreamPool({
    endpoint: { ip: "127.0.0.1", port: to },
    dial: options.dial ?? options.lane?.dial ?? dialPlain,
    sweep,
    exchangeLimits: limits,
    limits: { ...defaultPoolLimits, ...options.pool },
  });
  const connections = new Set<Downstream>();
  const forward = { kind: "forward", upstream: pool } as const;
  const handler: Handler = { decide: () => forward, ...options.handler };
  const server = createServer();
  await new Promise<void>((resolve) =>
    options.path === undefined ? server.listen(0, "127.0.0.1", 1024, resolve) : server.listen(options.path, resolve),
  );
  // Node's own accepting has no way to say where bytes are to go, so the handle is taken before a socket is made of it.
  const listening = server as unknown as { _handle: { onconnection: (status: number, handle: object) => void } };
  listening._handle.onconnection = (status, handle) => {
    if (status !== 0) return;
    const { lane } = options;
    const open = (onread: OnReadOpts): Socket => {
      if (lane === undefined)
        return new Socket({ handle, onread, allowHalfOpen: true } as unknown as ConstructorParameters<
          typeof Socket
        >[0]);
      const taken = handle as { readonly fd: number; close(): void };
      const socket = lane.adopt(taken.fd, onread);
      taken.close();
      return socket;
    };
    const closed = (): void => void connections.delete(connection);
    const joiner = lane === undefined ? {} : { joiner: lane.joins };
    const connection: Downstream = new Downstream({ handler, limits, sweep, closed, ...joiner }, open);
    connection.tenant = options.tenant;
    connections.add(connection);
  };
  const address = server.address();
  return {
    port: typeof address === "object" ? (address?.port ?? 0) : 0,
    pool,
    connections,
    async [Symbol.asyncDispose]() {
      for (const connection of connections) connection.destroy();
      pool.drain();
      sweep.stop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
