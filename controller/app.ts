// Builds the controller's parts in order and says how they start and stop. Nothing else constructs them.
import { readFileSync } from "node:fs";
import { IstioCertificateServiceService } from "../agent/api/istio-ca.gen.ts";
import { CertificateServiceService, NodeServiceService } from "../agent/api/mesh.gen.ts";
import { defaultSettings, type MeshSettings } from "../agent/api/settings.ts";
import { createAdminServer } from "../agent/base/admin-server.ts";
import { type Clock, every } from "../agent/base/clock.ts";
import { healthRoutes } from "../agent/base/health.ts";
import { formatEndpoint } from "../agent/base/ip.ts";
import { createLifecycle, type Lifecycle } from "../agent/base/lifecycle.ts";
import type { Logger } from "../agent/base/log.ts";
import { createMetrics } from "../agent/base/metrics.ts";
import { adminRoutes } from "./app/admin-routes.ts";
import { agentViews, isOfEndpoints } from "./app/agent-views.ts";
import { openCallers } from "./app/callers.ts";
import { discoveryService } from "./app/discovery-service.ts";
import { expiryMetrics } from "./app/expiry-metrics.ts";
import { openIstio } from "./app/istio-services.ts";
import { IstioView } from "./app/istio-view.ts";
import { openElection } from "./app/leadership.ts";
import { Ledger } from "./app/ledger.ts";
import { Mesh } from "./app/mesh.ts";
import { nodeServices } from "./app/node-services.ts";
import { openCa } from "./app/open-ca.ts";
import { openApi, openSource, ownNamespace } from "./app/open-source.ts";
import { operate } from "./app/operating.ts";
import { OwnCertificate } from "./app/own-certificate.ts";
import { replicaAgents } from "./app/replica-agents-open.ts";
import { publishRoots, rootConfigMaps } from "./app/root-configmaps.ts";
import { statusWriting } from "./app/status-writing.ts";
import { openWriters } from "./app/writing.ts";
import { type Config, machineName } from "./config.ts";
import { JoinTokens } from "./issue/join-tokens.ts";
import { openStateFiles } from "./issue/state-files.ts";
import { kubernetesMetrics } from "./report/kubernetes-metrics.ts";
import { controllerMetrics } from "./report/metrics.ts";
import { AgentRegistry } from "./serve/registry.ts";
import { discoveryDefinition } from "./serve/response.ts";
import { createGrpcServer, type ServerTls } from "./serve/server.ts";
import { AgentReports } from "./status/agents.ts";
import type { NotEnrolled } from "./status/replicas.ts";

export interface Controller extends Lifecycle {
  /** Ports actually bound, for configurations with port 0. */
  readonly ports: { readonly grpc: number; readonly health: number; readonly admin: number };
}
const housekeepingMs = 5000;
const serverLifeMs = 86_400_000;

/** Throws StateError (one line for the operator) when the state folder or the supplied CA cannot be used. */
export async function createController(config: Config, clock: Clock, log: Logger): Promise<Controller> {
  const now = (): number => clock.now();
  const registryMetrics = createMetrics(true);
  const metrics = controllerMetrics(registryMetrics);
  const files = openStateFiles(config.stateDir);
  const opened = config.source === "kubernetes" ? await openApi(config, clock) : undefined;
  const ca = await openCa({ config, opened, files, clock, log, metrics });
  const { authority } = ca;
  const tokens = new JoinTokens(files, now);
  const registry = new AgentRegistry();
  const reports = new AgentReports();
  const ledger = new Ledger({ files, now, log });
  const settings: MeshSettings = {
    ...defaultSettings,
    trustDomain: config.trustDomain,
    svidTtlMs: config.svidTtlMs,
    renewAt: config.renewAt,
  };
  let elsewhere = (): NotEnrolled => new Map();
  const unenrolled = (): ReadonlyMap<string, string> =>
    reports.unenrolled((namespace, pod) => mesh.index.get("Pod", namespace, pod)?.object.spec.nodeName, elsewhere());
  const istio = config.istioAccounts.length > 0 ? new IstioView(() => mesh.settings.clusterDomain) : undefined;
  const mesh: Mesh = new Mesh({
    translated: istio && ((changes, isWhole) => istio.update(changes, isWhole)),
    settings,
    rootNamespace: config.rootNamespace,
    authority,
    files,
    clock,
    log,
    metrics,
    unenrolled,
  });
  const election = opened && openElection(config, opened, registryMetrics, clock, log);
  const writers = opened && election && openWriters(config, opened, election, registryMetrics, clock, log);
  if (opened && writers)
    publishRoots(writers, authority, rootConfigMaps(ownNamespace(config, opened), config.istioAccounts));
  if (opened && writers) operate(config.statusSpacingMs, opened.api, mesh, writers);
  const mirrorMeter = opened && kubernetesMetrics(registryMetrics, clock);
  const source = openSource(config, opened, mesh.sink, mirrorMeter, clock, log);

  const identityOptions = {
    trustDomain: config.trustDomain,
    names: [...config.serverNames, machineName()],
    lifeMs: serverLifeMs,
    now,
  };
  const own = await OwnCertificate.make(authority, identityOptions, metrics, log);
  const adminClientRoots = config.adminClientCaFile === undefined ? "" : readFileSync(config.adminClientCaFile, "utf8");
  const grpcTls = (): ServerTls => ({ ...own.current, clientRootsPem: authority.rootsPem });
  const adminTls = () => ({
    certPem: own.current.certPem,
    keyPem: own.current.keyPem,
    clientRootsPem: authority.rootsPem.join("") + adminClientRoots,
    allowedSanPrefixes: config.adminSanPrefixes,
  });
  const grpc = createGrpcServer(grpcTls());

  const callers = openCallers({
    config,
    opened,
    mesh,
    authority,
    clock,
    log,
    metrics,
    rescan: () => void source.rescan(),
  });
  const ownViews = () => agentViews(registry, reports);
  const replicas =
    opened &&
    election &&
    mirrorMeter &&
    replicaAgents(
      { config, opened, election, mesh, registry, reports, ownViews, clock, log, meter: mirrorMeter },
      () => {
        statuses?.changed();
        mesh.refreshSoon();
      },
    );
  if (replicas) elsewhere = () => replicas.notEnrolled(registry);
  const views = () => replicas?.views(ownViews()) ?? ownViews();
  const statuses =
    writers &&
    election &&
    statusWriting({ mesh, source, writers, clock, views, lead: election, spacingMs: config.statusSpacingMs });
  // Endpoints come and go all the time, and no status tells of them.
  const changed = (typeUrl: string): void => {
    if (!isOfEndpoints(typeUrl)) statuses?.changed();
  };

  const services = nodeServices({
    mesh,
    callers,
    authority,
    tokens,
    reports,
    ledger,
    clock,
    log,
    metrics,
    svidTtlMs: config.svidTtlMs,
    nodeTtlMs: config.nodeTtlMs,
    jwtTtlMs: config.jwtTtlMs,
    placementWaitMs: config.placementWaitMs,
    rescan: () => void source.rescan(),
    reported: () => statuses?.changed(),
  });
  const ztunnels = openIstio({
    view: istio,
    callers,
    authority,
    clock,
    log,
    streams: (by) => metrics.ztunnels.add({}, by),
    issue: services.issueFor,
  });
  const { ztunnel } = ztunnels;
  grpc.server.addService(
    discoveryDefinition,
    discoveryService({
      ...{ mesh, callers, ztunnel, registry, metrics, clock, log, changed },
      forgotten: (node) => {
        reports.forget(node);
        mesh.refreshSoon();
      },
    }),
  );
  if (istio) grpc.server.addService(IstioCertificateServiceService, ztunnels.certificates);
  grpc.server.addService(NodeServiceService, services.node);
  grpc.server.addService(CertificateServiceService, services.certificates);

  const admin = adminRoutes({
    mesh,
    authority,
    tokens,
    registry,
    reports,
    views,
    ledger,
    clock,
    log,
    joinTokenTtlMs: config.joinTokenTtlMs,
    longestLifeMs: Math.max(config.svidTtlMs, config.nodeTtlMs),
    hasZtunnels: istio !== undefined,
    rescan: () => source.resync(),
    config: { ...config },
  });
  let isUp = false;
  const health = healthRoutes(
    {
      notReady() {
        return source.notReady() ?? (isUp ? undefined : "starting or stopping");
      },
      details: () => ({
        agents: registry.size,
        objects: mesh.index.size,
        problems: mesh.problems.length,
        generation: mesh.snapshot.generation,
        source: source.details(),
        ...(election && { lease: { leading: election.isLeading, holder: election.holder, fault: election.fault } }),
        ca: { phase: authority.phase, intermediateNotAfter: new Date(authority.intermediateNotAfterMs).toISOString() },
      }),
    },
    registryMetrics,
  );
  const healthServer = createAdminServer({ routes: health, log });
  const socketServer = createAdminServer({ routes: [...admin, ...health], log });
  const tlsServer = createAdminServer({ routes: [...admin, ...health], log, tls: adminTls() });

  expiryMetrics(registryMetrics, authority, own, ledger, now);

  const setTls = (): void => {
    grpc.setTls(grpcTls());
    tlsServer.setTls(adminTls());
  };
  const keepFresh = async (): Promise<void> => {
    if (await own.keepFresh()) setTls();
  };

  const ports = { grpc: 0, health: 0, admin: 0 };
  const lifecycle = createLifecycle(clock, log);
  lifecycle.add({
    name: "health",
    async start() {
      ports.health = await healthServer.listen(config.healthListen);
    },
    stop: () => healthServer.close(),
  });
  lifecycle.add({ name: "API server", stop: () => opened?.api.close() });
  lifecycle.add({ name: "source", start: (signal) => source.start(signal), stop: () => source.stop() });
  // After the source: until everything is known nothing is said of anything.
  lifecycle.add({
    name: "writers",
    start() {
      // First what is known of objects, then the writers that ask for it.
      statuses?.start();
      writers?.start();
    },
  });
  lifecycle.add({ name: "replicas", start: () => replicas?.start(), drain: () => replicas?.stop() });
  lifecycle.add({ name: "lease", start: () => election?.start(), drain: () => election?.stop() });
  let stopHousekeeping = (): void => {};
  lifecycle.add({
    name: "housekeeping",
    start() {
      const stopTicks = every(clock, housekeepingMs, () => void keepFresh());
      const stopFollowing = ca.follow();
      const stopListening = mesh.snapshot.onChange(() => {
        // A changed trust bundle changes whom the listeners believe.
        if (own.current.generation !== authority.generation) {
          setTls();
          void keepFresh();
        }
      });
      stopHousekeeping = () => {
        stopTicks();
        stopFollowing();
        stopListening();
      };
    },
    stop: () => stopHousekeeping(),
  });
  lifecycle.add({
    name: "agents listener",
    async start() {
      ports.grpc = await grpc.listen(formatEndpoint(config.listen.host, config.listen.port));
    },
    async drain(deadline) {
      isUp = false;
      registry.endAll();
      ztunnels.endAll();
      await grpc.close(deadline);
    },
    stop: () => grpc.server.forceShutdown(),
  });
  if (config.adminListen !== undefined) {
    const address = config.adminListen;
    lifecycle.add({
      name: "admin listener",
      async start() {
        ports.admin = await tlsServer.listen(address);
      },
      stop: () => tlsServer.close(),
    });
  }
  lifecycle.add({
    name: "admin socket",
    async start() {
      if (config.adminSocket !== undefined) await socketServer.listen({ path: config.adminSocket });
      isUp = true;
    },
    stop: () => socketServer.close(),
  });
  return Object.assign(lifecycle, { ports });
}
