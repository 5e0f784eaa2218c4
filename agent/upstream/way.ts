// One endpoint as the requests of one client use it: its pool, the policies to ask where it is on this node, and whom it is counted for.

import { type HttpPolicy, noTimeouts } from "../api/http-policy.ts";
import type { SpiffeId } from "../api/names.ts";
import type { Forward as Routed } from "../decide/http/decision.ts";
import { subjectOf } from "../decide/inbound.ts";
import { limiterFor, type RequestLimiter } from "../decide/limit/limiter.ts";
import type { SharedLimits } from "../decide/limit/shared.ts";
import { judgeFor, type RequestJudge } from "../decide/request-authorize.ts";
import { effectiveTimeouts } from "../decide/resilience/timeouts.ts";
import type { CallMemo, Enriched, Enricher } from "../enrich/enricher.ts";
import type { Endpoint, LocalPod } from "../flow.ts";
import type { Forward } from "../forward/http1/exchange.ts";
import type { Pool } from "../forward/pools.ts";
import type { RequestHead } from "../http.ts";
import type { RequestParties } from "../report/request-series.ts";
import type { MeshState } from "../state/mesh-state.ts";

export interface WayParts {
  readonly at: Endpoint;
  /** Found anew when the one that was used is gone. */
  readonly pool: () => Pool;
  /** The server, where it is on this node: its policies are asked here. Those of a server elsewhere are its own agent's to ask. */
  readonly subject: LocalPod | undefined;
  /** Whose requests these are. */
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
  readonly parties: readonly RequestParties[];
}

export class Way {
  readonly parts: WayParts;
  #pool: Pool | undefined;
  #judge: RequestJudge | undefined;
  #limiter: RequestLimiter | undefined;
  #call: CallMemo | undefined;
  #judgedAt = -1;
  #routed: Routed | undefined;
  #policy: HttpPolicy | undefined;
  #forward: Forward | undefined;

  constructor(parts: WayParts) {
    this.parts = parts;
  }

  judge(state: MeshState): RequestJudge | undefined {
    const { subject, identity, sourceIp, at } = this.parts;
    if (subject === undefined) return undefined;
    // Policies, settings and workloads change with the generation alone.
    if (this.#judge !== undefined && this.#judgedAt === state.generation) return this.#judge;
    this.#judgedAt = state.generation;
    const { ip, port } = at;
    const destination = subjectOf(state, subject);
    this.#judge = judgeFor(
      state,
      { destination, identity, sourceIp, destinationIp: ip, port, sni: undefined },
      this.#judge,
    );
    return this.#judge;
  }

  /** Who calls the server, where it is on this node and the enricher is on. */
  enrich(state: MeshState, enricher: Enricher, head: RequestHead, nowMs: number): Enriched | undefined {
    const { subject, identity, sourceIp, at } = this.parts;
    if (subject === undefined || !state.settings.enricher.enable_mesh_enricher) return undefined;
    const destination = subjectOf(state, subject);
    this.#call = enricher.memo(state, { destination, port: at.port, identity, sourceIp }, nowMs, this.#call);
    return this.#call && enricher.enrich(this.#call, head, nowMs);
  }

  /** Rate limits of the server, where it is on this node; undefined: there are none. */
  limiter(state: MeshState, limits: SharedLimits): RequestLimiter | undefined {
    const { subject, identity, sourceIp, at } = this.parts;
    if (subject === undefined || state.rateLimits.size === 0) return undefined;
    const destination = subjectOf(state, subject);
    this.#limiter = limiterFor(state, limits, { destination, identity, sourceIp, port: at.port }, this.#limiter);
    return this.#limiter;
  }

  /** Connections to it. */
  pool(): Pool {
    if (this.#pool === undefined || this.#pool.isGone) this.#pool = this.parts.pool();
    return this.#pool;
  }

  /** What the codec is told; the same object for the same route and policy. */
  forward(routed: Routed | undefined, policy: HttpPolicy): Forward {
    const before = this.#pool;
    const pool = this.pool();
    if (before === pool && this.#forward !== undefined && this.#routed === routed && this.#policy === policy)
      return this.#forward;
    const rule = routed?.hit.rule.rule;
    const timeouts = rule?.timeouts ?? noTimeouts;
    const { requestMs, tryMs, responseMs } = effectiveTimeouts(timeouts, policy.timeouts);
    // What silence is too long where nobody said so depends on what is spoken.
    const idleMs = timeouts.idleMs ?? policy.timeouts.idleMs;
    const retry = rule?.retry ?? policy.retry;
    this.#forward = {
      kind: "forward",
      upstream: pool,
      timeoutMs: requestMs,
      tryTimeoutMs: tryMs,
      responseTimeoutMs: responseMs,
      ...(idleMs === undefined ? {} : { idleTimeoutMs: idleMs }),
      ...(retry === undefined || retry.attempts === 0 ? {} : { replayBytes: retry.maxBodyBytes }),
      ...(routed === undefined
        ? {}
        : { edits: routed.requestEdits, path: routed.path, authority: routed.authority, delayMs: routed.delayMs }),
    };
    this.#routed = routed;
    this.#policy = policy;
    return this.#forward;
  }
}
