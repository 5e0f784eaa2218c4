// The HTTP lane as the control thread sees it: its data threads, their replicas, what they count, and which connections they take.
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import { ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { ClientSessions } from "../decide/client-sessions.ts";
import { isHttpProtocol } from "../decide/direct-rows.ts";
import { subjectOf } from "../decide/inbound.ts";
import type { OutboundDecision } from "../decide/outbound.ts";
import { servicePortsOf } from "../decide/service-ports.ts";
import type { Knowledge, LocalPod } from "../flow.ts";
import type { Native } from "../native.ts";
import { EndpointChanges } from "../report/endpoint-changes.ts";
import { metricNames } from "../report/metric-names.ts";
import { OrchestratorMetrics } from "../report/orchestrator-metrics.ts";
import { type PairRequests, RequestTotals } from "../report/request-totals.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { type DataThreads, startDataThreads } from "./data-threads.ts";
import { GuardReport } from "./guard-report.ts";
import { LimitReport } from "./limit-report.ts";
import { Replicas } from "./replicas.ts";
import type { Telemetry } from "./telemetry.ts";

export interface LaneParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly native: Native;
  readonly state: MeshState;
  readonly pods: () => readonly LocalPod[];
  readonly knowledge: () => Knowledge;
  readonly telemetry: Telemetry;
  /** A thread went or came back: answers that name threads are to be given anew. */
  readonly changed: () => void;
}

export class Lane {
  readonly replicas: Replicas;
  readonly telemetry: Telemetry;
  /** For the control thread, which chooses for connections that no thread takes. */
  readonly clients: ClientSessions;
  readonly #clients = ClientSessions.createMemory();
  readonly #parts: LaneParts;
  readonly #requests: RequestTotals;
  readonly #died;
  readonly #malformed;
  readonly #endpoints: EndpointChanges;
  readonly #mirrored;
  readonly #decided: OrchestratorMetrics;
  readonly #limited: LimitReport;
  readonly #threw;
  readonly #guard: GuardReport;
  #threads: DataThreads | undefined;

  constructor(parts: LaneParts) {
    this.#parts = parts;
    this.telemetry = parts.telemetry;
    this.clients = new ClientSessions(this.#clients);
    this.replicas = new Replicas({ state: parts.state, pods: parts.pods, knowledge: parts.knowledge });
    this.#requests = new RequestTotals(parts.metrics);
    this.#decided = new OrchestratorMetrics(parts.metrics);
    this.#died = parts.metrics.counter(metricNames.dataThreadsDied);
    this.#mirrored = parts.metrics.counter(metricNames.mirrored);
    this.#endpoints = new EndpointChanges(parts.metrics, parts.log);
    this.#malformed = parts.metrics.counter(metricNames.malformed);
    this.#limited = new LimitReport(parts);
    this.#threw = parts.metrics.counter(metricNames.requestsThrew);
    this.#guard = new GuardReport(parts);
  }

  async start(): Promise<Result<void, string>> {
    const { config, native, clock, random, log, changed } = this.#parts;
    if (config.dataThreads === 0) return ok(undefined);
    const started = await startDataThreads(config.dataThreads, {
      native,
      replicas: this.replicas,
      clock,
      random,
      log,
      died: this.#died,
      hungMs: config.dataThreadHungMs,
      metricSeries: config.metricSeries,
      drainIdleMs: config.drainIdleMs,
      guard: this.#guard.memory,
      clients: this.#clients,
      heapMb: config.dataThreadHeapMb,
      limits: {
        connections: config.namespaceConnections,
        requests: config.namespaceRequests,
        bytes: config.namespaceBufferMb * 2 ** 20,
        share: config.namespaceShare / 100,
      },
      threw: (error) => {
        this.#threw.add({});
        log.error("request_threw", { error });
      },
      limited: (refusals) => this.#limited.take(refusals),
      ended: (_thread, end) => this.telemetry.carried(end),
      requests: (thread, ended) =>
        ended === undefined ? this.#requests.gone(thread) : this.#requests.take(thread, ended),
      malformed: (refused) => this.#malformed.add({ refused }),
      decided: (told) => this.#decided.take(told),
      guarded: (told) => this.#guard.take(told),
      endpoint: (change) => this.#endpoints.take(change),
      mirrored: (counts) => {
        for (const [outcome, count] of counts) this.#mirrored.add({ outcome }, count);
      },
      telemetry: this.telemetry,
      changed,
    });
    if (!started.ok) return started;
    this.#threads = started.value;
    return ok(undefined);
  }

  get isOn(): boolean {
    return this.#threads !== undefined;
  }

  /** The thread for connections out of a pod that were decided so; undefined: they are carried as TCP. */
  outbound(asRequests: OutboundDecision): number | undefined {
    if (asRequests.kind === "refuse" || !isHttpProtocol(asRequests.protocol)) return undefined;
    return this.#threads?.next();
  }

  /** The thread for connections to a port of a pod of this node: one that services declare to be HTTP, of whichever version. */
  inbound(pod: LocalPod, port: number): number | undefined {
    if (this.#threads === undefined) return undefined;
    const { state } = this.#parts;
    const declared = servicePortsOf(state, subjectOf(state, pod), port);
    const isHttp = declared.length > 0 && declared.every((each) => isHttpProtocol(each?.protocol ?? ""));
    return isHttp ? this.#threads.next() : undefined;
  }

  /** Resolves once no data thread has a connection of a client left. */
  async drain(): Promise<void> {
    await this.#threads?.drain();
  }

  /** Requests by source and service since the start. */
  requests(): readonly PairRequests[] {
    return this.#requests.pairs();
  }

  async stop(): Promise<void> {
    await this.#threads?.stop();
  }
}
