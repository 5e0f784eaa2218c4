// What the agent answers to: the admin socket, and the port for metrics and health. Both are taken over without a gap.
import { renameSync } from "node:fs";
import { createAdminServer } from "../base/admin-server.ts";
import type { Clock } from "../base/clock.ts";
import { type Health, healthRoutes } from "../base/health.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import { err, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import type { Enrolment, PodStatus } from "../intercept/enrol.ts";
import type { KernelView } from "../intercept/kernel-view.ts";
import type { Native } from "../native.ts";
import type { ConnectionReport } from "../report/connection-report.ts";
import type { Book } from "../report/facts-book.ts";
import { metricNames } from "../report/metric-names.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { adminRoutes, type WatchedLane } from "./admin.ts";
import type { Certificates } from "./certificates.ts";
import type { Discovery } from "./discovery.ts";
import type { ExplainParts } from "./explain.ts";
import { describeInterception, type Interception } from "./interception.ts";
import type { Removal } from "./removal.ts";
import { openWorkloadSocket, type WorkloadSocket } from "./workload-socket.ts";

export interface EndpointsParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly native: Native;
  readonly nativeVersion: string;
  readonly version: string;
  readonly state: MeshState;
  readonly book: Book;
  readonly report: ConnectionReport;
  readonly pods: Enrolment;
  readonly view: KernelView;
  readonly certificates: Certificates;
  readonly discovery: Discovery;
  readonly phase: () => "starting" | "ready" | "draining";
  /** Why not all pods of the node are known. */
  readonly podsMissing: () => string | undefined;
  readonly interception: () => Interception;
  readonly foreignHooks: () => readonly unknown[];
  readonly explain: ExplainParts;
  readonly lane: WatchedLane;
  readonly sync: () => Promise<readonly PodStatus[]>;
  readonly drain: () => void;
  readonly cni: () => Readonly<Record<string, unknown>>;
  readonly removal: () => Pick<Removal, "start" | "status">;
}

export class Endpoints {
  readonly #parts: EndpointsParts;
  readonly #health: Health;
  readonly #admin;
  readonly #public;
  readonly #workloads: WorkloadSocket;
  #counters: Readonly<Record<string, number>> = {};

  constructor(parts: EndpointsParts) {
    this.#parts = parts;
    const { log, metrics, native, config, book, report, pods, certificates } = parts;
    this.#health = {
      notReady() {
        const phase = parts.phase();
        if (phase !== "ready") return phase;
        const pods = parts.podsMissing();
        if (pods !== undefined) return pods;
        // Neither from disk nor from the controller: every connection of a pod would be refused.
        const { knowledge, problem } = parts.discovery.status;
        return knowledge === "none"
          ? `nothing is known of the mesh yet: ${problem || "the controller has not told all"}`
          : undefined;
      },
      details: () => this.#status(),
    };
    this.#admin = createAdminServer({
      log,
      routes: adminRoutes({
        config,
        native,
        health: this.#health,
        metrics,
        book,
        recent: report.recent,
        explain: parts.explain,
        lane: parts.lane,
        status: () => this.#status(),
        pods: () => pods.statuses(),
        sync: parts.sync,
        certs: () => certificates.status(),
        drain: parts.drain,
        uninstall: () => parts.removal().start(),
      }),
    });
    const routes = healthRoutes(this.#health, metrics).map((route) =>
      route.path !== "/metrics"
        ? route
        : {
            ...route,
            handle: async (request: Parameters<typeof route.handle>[0]) => {
              await this.#readCounters();
              return route.handle(request);
            },
          },
    );
    this.#public = createAdminServer({ log, routes });
    this.#workloads = openWorkloadSocket(parts);
    this.#gauges();
  }

  async listen(): Promise<Result<void, string>> {
    const { adminSocket, metricsListen } = this.#parts.config;
    try {
      // Under a name of its own, then moved over the old agent's: the path always answers.
      const own = `${adminSocket}.${process.pid}`;
      await this.#admin.listen({ path: own });
      renameSync(own, adminSocket);
    } catch (error) {
      return err(`FAIRLEAD_ADMIN_SOCKET: ${messageOf(error)}`);
    }
    try {
      await this.#public.listen({ ...metricsListen, reusePort: true });
    } catch (error) {
      return err(`FAIRLEAD_METRICS_LISTEN: ${messageOf(error)}`);
    }
    return this.#workloads.listen();
  }

  async close(): Promise<void> {
    await Promise.all([this.#admin.close(), this.#public.close(), this.#workloads.close()]);
  }

  #status() {
    const { config, state, pods, view, discovery, certificates, version, nativeVersion } = this.#parts;
    const statuses = pods.statuses();
    const svids = certificates.svids.statuses();
    return {
      node: config.node,
      pid: process.pid,
      version,
      native: nativeVersion,
      phase: this.#parts.phase(),
      interception: this.#parts.interception().way,
      directLane: describeInterception(this.#parts.interception()).directLane,
      interceptionReason: this.#parts.interception().reason,
      foreignHooks: this.#parts.foreignHooks(),
      generation: state.generation,
      pods: { enrolled: statuses.filter((p) => p.enrolled).length, known: statuses.length },
      discovery: discovery.status,
      certificates: {
        identities: svids.length,
        troubled: svids.filter((s) => s.state !== "current" || s.failures > 0),
      },
      cni: this.#parts.cni(),
      removal: this.#parts.removal().status,
      kernel: view.sizes,
      facts: this.#parts.book.sizes,
      metricSeries: this.#parts.report.seriesCount,
      memory: process.memoryUsage(),
    };
  }

  #gauges(): void {
    const { metrics, discovery, pods, view, state } = this.#parts;
    metrics.gaugeOf(metricNames.interception, (g) => {
      g.clear();
      g.set({ way: this.#parts.interception().way }, 1);
    });
    metrics.gaugeOf(metricNames.controllerConnected, (g) => g.set({}, discovery.status.connected ? 1 : 0));
    metrics.counterOf(metricNames.controllerConnects, (set) => set({}, discovery.status.attempts));
    metrics.gaugeOf(metricNames.discoveryAge, (g) => g.set({}, (discovery.status.ageMs ?? 0) / 1000));
    metrics.gaugeOf(metricNames.discoveryEntries, (g) => {
      for (const [kind, count] of Object.entries(discovery.status.entries)) g.set({ kind }, count);
    });
    metrics.gaugeOf(metricNames.discoveryStale, (g) => {
      const { stale, entries } = discovery.status;
      g.set({}, stale ? Object.values(entries).reduce((sum, count) => sum + count, 0) : 0);
    });
    metrics.gaugeOf(metricNames.resourcesRefused, (g) => {
      g.clear();
      for (const { typeUrl } of discovery.status.refused)
        g.add({ type: typeUrl.slice(typeUrl.lastIndexOf(".") + 1) }, 1);
    });
    metrics.gaugeOf(metricNames.podsEnrolled, (g) => {
      const enrolled = pods.statuses().filter((p) => p.enrolled).length;
      g.set({ state: "enrolled" }, enrolled);
      g.set({ state: "not_enrolled" }, pods.statuses().length - enrolled);
    });
    metrics.gaugeOf(metricNames.kernelRows, (g) => {
      for (const [map, rows] of Object.entries(view.sizes)) g.set({ map }, rows);
    });
    metrics.gaugeOf(metricNames.generation, (g) => g.set({}, state.generation));
    metrics.counterOf(metricNames.nativeCounters, (set) => {
      for (const [counter, total] of Object.entries(this.#counters)) set({ counter }, total);
    });
  }

  async #readCounters(): Promise<void> {
    const read = await this.#parts.native.call("counters", {}, 1_000);
    if (read.ok) this.#counters = read.value;
  }
}
