// The HTTP lane's codecs on loopback, both versions on both sides: whatever a client speaks goes to a server that is spoken to in one.
import { createServer, type OnReadOpts, Socket } from "node:net";
import { systemClock } from "../../agent/base/clock.ts";
import { Downstream } from "../../agent/forward/http1/downstream.ts";
import {
  type Decision,
  defaultExchangeLimits,
  type Exchange,
  type ExchangeLimits,
  type Handler,
} from "../../agent/forward/http1/exchange.ts";
import { UpstreamPool } from "../../agent/forward/http1/pool.ts";
import { Sweep } from "../../agent/forward/http1/sweep.ts";
import { Http2Downstream } from "../../agent/forward/http2/downstream.ts";
import { defaultLimits, type Http2Limits } from "../../agent/forward/http2/limits.ts";
import { Http2Pool } from "../../agent/forward/http2/pool.ts";
import { Turn } from "../../agent/forward/http2/socket.ts";
import { defaultPoolLimits, type PoolLimits } from "../../agent/forward/server-pool.ts";
import { type TakeClient, UnknownClient } from "../../agent/forward/sniff.ts";
import type { Tenant } from "../../agent/forward/tenants.ts";
import type { RequestHead } from "../../agent/http.ts";
import { dialPlain } from "./http1-proxy.ts";

export interface EndedExchange {
  readonly method: string;
  readonly status: number;
  readonly outcome: string;
  readonly resent: number;
  readonly grpcStatus: string;
  readonly requestBytes: number;
  readonly responseBytes: number;
}

export interface Lane {
  readonly port: number;
  readonly pools: { readonly http1: UpstreamPool; readonly http2: Http2Pool };
  readonly connections: Set<Downstream | Http2Downstream>;
  readonly ended: EndedExchange[];
  readonly refused: string[];
  readonly threw: unknown[];
  [Symbol.asyncDispose](): Promise<void>;
}

export interface LaneOptions {
  readonly upstream: "http1" | "http2";
  /** Absent: everything goes to the server. */
  readonly decide?: (head: RequestHead, exchange: Exchange, to: Lane["pools"]) => Decision;
  readonly handler?: Partial<Handler>;
  readonly limits?: Partial<ExchangeLimits>;
  readonly http2Limits?: Partial<Http2Limits>;
  readonly pool?: Partial<PoolLimits>;
  /** Whose share of the thread clients use. */
  readonly tenant?: Tenant;
}

/** Everything that comes goes to 127.0.0.1:`to`, unless a decision says otherwise. */
export async function startLane(to: number, options: LaneOptions): Promise<Lane> {
  const limits = { ...defaultExchangeLimits, ...options.limits };
  const http2Limits = { ...defaultLimits, ...options.http2Limits };
  const sweep = new Sweep(systemClock, 20);
  const turn = new Turn();
  const endpoint = { ip: "127.0.0.1", port: to };
  const poolLimits = { ...defaultPoolLimits, ...options.pool };
  const toServer = { endpoint, dial: dialPlain, sweep, exchangeLimits: limits };
  const pools = {
    http1: new UpstreamPool(toServer),
    http2: new Http2Pool({ ...toServer, turn, limits: poolLimits, http2Limits }),
  };
  const ended: EndedExchange[] = [];
  const refused: string[] = [];
  const threw: unknown[] = [];
  const forward = { kind: "forward", upstream: pools[options.upstream] } as const;
  const handler: Handler = {
    decide: (head, exchange) => options.decide?.(head, exchange, pools) ?? forward,
    refused: (why) => void refused.push(why.refused),
    threw: (error) => void threw.push(error),
    ...options.handler,
    ended(exchange) {
      const { method, status, outcome, resent, requestBytes, responseBytes } = exchange;
      ended.push({
        method,
        status,
        outcome,
        resent,
        requestBytes,
        responseBytes,
        grpcStatus: exchange.grpcStatus,
      });
      options.handler?.ended?.(exchange);
    },
  };
  const connections = new Set<Downstream | Http2Downstream>();
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", 1024, resolve));
  const listening = server as unknown as { _handle: { onconnection: (status: number, handle: object) => void } };
  listening._handle.onconnection = (status, handle) => {
    if (status !== 0) return;
    const open = (onread: OnReadOpts): Socket =>
      new Socket({ handle, onread, allowHalfOpen: true } as unknown as ConstructorParameters<typeof Socket>[0]);
    const parts = { handler, limits, sweep };
    const http1: TakeClient = (adopt) => {
      const closed = (): void => void connections.delete(connection);
      const connection: Downstream = new Downstream({ ...parts, closed }, adopt);
      connection.tenant = options.tenant;
      connections.add(connection);
      return connection;
    };
    new UnknownClient(
      open,
      {
        http1,
        other: http1,
        http2(adopt) {
          const closed = (): void => void connections.delete(connection);
          const connection: Http2Downstream = new Http2Downstream(
            { ...parts, handler: () => handler, turn, http2Limits, closed },
            adopt,
          );
          connection.tenant = options.tenant;
          connections.add(connection);
          return connection;
        },
      },
      () => {},
      systemClock,
      { ...limits, isHttp2Port: false },
    );
  };
  const address = server.address();
  return {
    port: typeof address === "object" ? (address?.port ?? 0) : 0,
    pools,
    connections,
    ended,
    refused,
    threw,
    async [Symbol.asyncDispose]() {
      for (const connection of connections) connection.destroy();
      pools.http1.drain();
      pools.http2.drain();
      sweep.stop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
