// The only constructor of the agent's parts; start and stop order. A start is also a replacement: everything is in place and
// ready before the old agent is told to go (docs/takeover.md).
import { randomInt } from "node:crypto";
import { mkdirSync } from "node:fs";
import type { PodName } from "../api/names.ts";
import { defaultSettings } from "../api/settings.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { createMetrics } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import { ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { answerQuestion, type ConnectionParts } from "../connection.ts";
import type { DirectSettings } from "../decide/direct-rows.ts";
import { isStrictAnywhere } from "../decide/mtls.ts";
import type { DecideSettings } from "../decide/outbound.ts";
import type { Question } from "../flow.ts";
import { Enrolment, type PodStatus } from "../intercept/enrol.ts";
import { KernelView } from "../intercept/kernel-view.ts";
import type { NativeChannel, NativeListener, StartedNative } from "../native.ts";
import { ConnectionReport } from "../report/connection-report.ts";
import { createFactsBook } from "../report/facts-book.ts";
import { metricNames } from "../report/metric-names.ts";
import { type Changes, MeshState } from "../state/mesh-state.ts";
import { Certificates } from "./certificates.ts";
import { Cni } from "./cni.ts";
import { ControllerLink } from "./controller-link.ts";
import { Discovery } from "./discovery.ts";
import { Endpoints } from "./endpoints.ts";
import { type Interception, loadInterception } from "./interception.ts";
import { Lane } from "./lane.ts";
import { startLiveness } from "./liveness.ts";
import { createNativeEvents } from "./native-events.ts";
import { NodePods } from "./node-pods.ts";
import { PolicyChange } from "./policy-change.ts";
import { Removal } from "./removal.ts";
import { Takeover } from "./takeover.ts";
import { openTelemetry } from "./telemetry.ts";
import { ViewSync } from "./view-sync.ts";

export interface AgentParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly version: string;
  /** Starts native: the library, or in tests a peer that speaks the same channel. */
  readonly startNative: (listener: NativeListener) => Result<StartedNative, string>;
  /** The agent has ended; `code` is the exit code. */
  readonly ended: (code: number) => void;
}
export interface Agent {
  /** Stops taking connections, lets open ones end within the drain time, then ends. */
  drain(why: string): void;
}

/** Starts everything. The error is one line that says what is missing. */
export async function startAgent(parts: AgentParts): Promise<Result<Agent, string>> {
  const { config, clock, random, log, version } = parts;
  mkdirSync(config.runDir, { recursive: true, mode: 0o700 });
  const takeover = new Takeover({
    runDir: config.runDir,
    pid: process.pid,
    version,
    clock,
    log,
    answerMs: config.takeoverMs,
    yieldTo: (pid) => yieldTo(pid),
    lost: () => void (phase === "ready" && takeBack()),
  });
  const claimed = await takeover.claim();
  if (!claimed.ok) return claimed;

  const metrics = createMetrics(true);
  const state = new MeshState({ ...defaultSettings, trustDomain: config.trustDomain });
  const book = createFactsBook();
  const opened = await openTelemetry({ ...parts, metrics, report: () => report });
  if (!opened.ok) {
    takeover.close();
    return opened;
  }
  const telemetry = opened.value;
  const report: ConnectionReport = new ConnectionReport({
    book,
    metrics,
    seriesLimit: config.metricSeries,
    recordsKept: config.recordsKept,
    accessLog: telemetry.accessLog,
  });
  const questions = metrics.counter(metricNames.questions);
  const kernelFailures = metrics.counter(metricNames.kernelFailures);
  const resets = metrics.counter(metricNames.reevaluated);
  const cacheFailures = metrics.counter(metricNames.cacheFailures);

  let phase: "starting" | "ready" | "draining" = "starting";
  let interception: Interception = { way: "none", reason: "not chosen yet" };
  let onDrained: () => void = () => {};
  const decideSettings = (): DecideSettings => ({
    ...{ knowledge: discovery.knowledge, detectMs: config.detectMs },
    sessions: { known: lane.clients, nowS: clock.monotonicMs() / 1000 },
  });
  const directSettings = (): DirectSettings => ({
    knowledge: discovery.knowledge,
    kernelLane: interception.way === "ebpf",
    l7Telemetry: config.dataThreads > 0,
  });

  const events = createNativeEvents({
    clock,
    log,
    metrics,
    pods: () => pods,
    drained: () => onDrained(),
    policy: (number, name) => book.remotePolicy(number, name),
    gone: () => fail(),
  });
  const listener: NativeListener = {
    question(question) {
      const answer = answerQuestion(flow, question as Question);
      questions.add({ ask: question.ask, outcome: answer === null ? "failed" : "answered" });
      return answer;
    },
    records: (frame) => report.records(frame),
    event: (event) => events.take(event),
    late: (value) => events.late(value),
    closed(reason) {
      log.error("native_lost", { reason });
      parts.ended(1);
    },
  };
  const started = parts.startNative(listener);
  if (!started.ok) {
    takeover.close();
    return started;
  }
  const native: NativeChannel = started.value.channel;
  /** Native cannot go on: open connections are reset, not left to look as if they had ended. */
  const fail = (): void => void native.call("stop", {}, 500).then(() => parts.ended(1));
  const stopBeating = startLiveness({
    clock,
    log,
    beat: () => native.call("heartbeat", {}, config.heartbeatDeadMs),
    everyMs: config.heartbeatMs,
    deadMs: config.heartbeatDeadMs,
    end: fail,
  });

  const pods = new Enrolment({
    native,
    clock,
    log,
    node: config.node,
    trustDomain: config.trustDomain,
    settings: () => state.settings,
    isStrict: (pod) => isStrictAnywhere(state, pod.workload),
    isAnnounced: (pod) => (state.workloads.byUid(pod.workload.uid)?.tunnel ?? "none") !== "none",
    isClaimed: (pod) => discovery.claims(pod.name),
    changed: (names) => podsChanged(names),
    firstNumber: randomInt(1, 2 ** 31),
    withdrawMs: config.withdrawMs,
    drainMs: config.drainMs,
    certificates: {
      isPatient: () => config.pods === "kubernetes" && (phase === "ready" || takeover.predecessor === 0),
      has: (identity) => certificates.has(identity),
      waitMs: config.svidWaitMs,
    },
    existing(pod, strict, sockets) {
      log.warn(strict ? "existing_connections_ended" : "existing_connections", {
        pod: pod.name,
        count: sockets.length,
        sockets,
      });
    },
  });
  const nodePods: NodePods = new NodePods({
    ...{ config, clock, random, log, metrics, native, enrolment: pods },
    isDraining: () => phase === "draining",
    synced: () => discovery.reportSoon(),
    certified: (identity) => certificates.ready([identity], config.svidWaitMs),
  });
  const lane = new Lane({
    ...{ config, clock, random, log, metrics, native, state },
    pods: () => pods.known(),
    knowledge: () => discovery.knowledge,
    telemetry,
    changed: () => void native.call("generation.set", { generation: state.bump() }),
  });
  const flow: ConnectionParts = {
    state,
    pods,
    facts: book,
    settings: decideSettings,
    waits: { permissiveMs: config.permissiveWaitMs, strictMs: config.handshakeTimeoutMs },
    lane,
    failed: (question, error) => log.error("question_failed", { ask: question.ask, pod: question.pod, error }),
  };
  // Above anything that an agent before this one wrote into maps that outlive it: time only goes forward between agents.
  const epoch = clock.now();
  const view = new KernelView(native, log, BigInt(epoch) * 1_000_000n, randomInt(1, 2 ** 31));
  view.setDirectGrace(config.directGraceMs);
  const policyChange = new PolicyChange({
    ...{ state, pods, book, native, clock, log },
    knowledge: () => discovery.knowledge,
    reset: (count) => resets.add({}, count),
  });
  const sync = new ViewSync({
    ...{ state, pods, view, facts: book, clock },
    maps: () => interception.way === "ebpf",
    direct: directSettings,
    withdrawn: (source, _destination, rows) => void policyChange.destroyDirect(source, rows),
    failed: () => kernelFailures.add({}),
  });
  const link = new ControllerLink(config, clock);
  const arrived = (): void => void (phase === "starting" || nodePods.sync());
  const certificates = new Certificates({ config, clock, random, log, metrics, native, state, link, arrived });
  const discovery: Discovery = new Discovery({
    ...{ config, clock, random, log, state, link },
    agentVersion: version,
    interception: () => interception.way,
    pods: () => certificates.toTell(pods.statuses()),
    changed(changes, update) {
      lane.replicas.mesh(update);
      stateChanged(changes);
    },
    connected: () => certificates.svids.retryNow(),
    knowledgeChanged: (knowledge) => {
      state.bump();
      lane.replicas.knowledge(knowledge);
      void allChanged();
    },
    cacheFailed: () => cacheFailures.add({}),
  });
  const endpoints = new Endpoints({
    ...{ config, clock, log, metrics, native, version, state, book, report, pods, view, certificates, discovery },
    nativeVersion: started.value.version,
    phase: () => phase,
    podsMissing: () => nodePods.missing(),
    foreignHooks: () => events.foreignHooks,
    interception: () => interception,
    explain: {
      state,
      pods,
      interception: () => interception,
      decide: decideSettings,
      direct: directSettings,
      readsHttp: () => lane.isOn,
      wallMs: () => clock.now(),
    },
    lane,
    sync: syncedPods,
    drain: () => drain("asked on the admin socket"),
    cni: () => cni.status,
    removal: () => removal,
  });
  const cni = new Cni({
    ...{ config, clock, log, metrics, pods: nodePods },
    async settled(identity) {
      if (discovery.knowledge === "none") await discovery.synced(config.svidWaitMs);
      await certificates.ready([identity], config.svidWaitMs);
      await sync.flush();
    },
  });

  const own = { config, clock, log, native, enrolment: pods };
  const removal = new Removal({ ...own, nodePods: () => nodePods, cni: () => cni });

  function stateChanged(changes: Changes): void {
    void native.call("generation.set", { generation: state.generation });
    if (changes.names.TrustBundle.size + changes.names.MeshSettings.size > 0) void certificates.trustChanged();
    const policies =
      changes.names.Authorization.size + changes.names.TrafficPolicy.size + changes.names.MeshSettings.size;
    if (policies > 0) {
      policyChange.schedule();
      if (phase === "ready") void nodePods.sync();
    }
    if (phase !== "draining") void sync.changed(changes);
  }
  function allChanged(): Promise<void> {
    void native.call("generation.set", { generation: state.generation });
    policyChange.schedule();
    return phase === "draining" ? Promise.resolve() : sync.all();
  }
  function podsChanged(names: readonly PodName[]): void {
    lane.replicas.pods();
    certificates.want(pods.identities());
    void native.call("generation.set", { generation: state.bump() });
    if (phase !== "draining") void sync.podsChanged(names);
    discovery.reportSoon();
  }
  /** Also waits for the SVIDs of what is in. */
  async function syncedPods(): Promise<readonly PodStatus[]> {
    await nodePods.sync();
    await discovery.synced(config.svidWaitMs);
    await certificates.ready(
      pods.all().map((pod) => pod.identity),
      config.svidWaitMs,
    );
    await sync.flush();
    return pods.statuses();
  }

  /** Two agents have had pods and maps at once: they are this one's alone from now on. */
  async function takeBack(): Promise<void> {
    pods.tellAgain();
    view.readAgain();
    await nodePods.sync();
    await sync.flush();
  }
  async function yieldTo(pid: number): Promise<void> {
    phase = "draining";
    log.info("yielding", { to: pid });
    stopBeating();
    certificates.stop();
    await discovery.yieldFiles();
    await endpoints.close();
    drain(`replaced by ${pid}`);
  }

  let draining = false;
  function drain(why: string): void {
    if (draining) return;
    draining = true;
    phase = "draining";
    void cni.stop();
    log.info("draining", { why, deadlineMs: config.drainMs });
    const deadline = new AbortController();
    // Native first: while it takes connections, a thread's may begin anew.
    onDrained = () => void lane.drain().then(() => deadline.abort());
    void lane.drain();
    void (async () => {
      await native.call("drain", { deadlineMs: config.drainMs });
      // Native ends what is left at its deadline and says so; a little longer, and it is taken for dead.
      await clock.sleep(config.drainMs + 2_000, deadline.signal);
      await stop();
      parts.ended(0);
    })();
  }
  async function stop(): Promise<void> {
    stopBeating();
    await nodePods.close();
    takeover.close();
    certificates.stop();
    await discovery.stop();
    await endpoints.close();
    await lane.stop();
    await telemetry.close();
    await native.call("stop", {}, 2_000);
    native.close();
    link.close();
    await removal.finish();
    log.flush();
  }

  const begun = await begin();
  if (!begun.ok) {
    await stop();
    return begun;
  }
  return ok({ drain });

  /** Everything up to the moment when the old agent may go. */
  async function begin(): Promise<Result<void, string>> {
    const loaded = await loadInterception(native, log, config.interception);
    if (!loaded.ok) return loaded;
    interception = loaded.value;
    await discovery.load();
    // Their replicas begin with what is known by now.
    const threads = await lane.start();
    if (!threads.ok) return threads;
    await native.call("generation.set", { generation: state.generation });
    await certificates.load();
    certificates.start();
    discovery.start();
    const known = await nodePods.open();
    if (!known.ok) return known;
    await discovery.caughtUp(config.svidWaitMs);
    await nodePods.sync();
    await sync.start();
    discovery.speak();
    // SVIDs from the run directory are already in; only an agent that has none waits for the controller, and not for long.
    if (takeover.predecessor !== 0) await discovery.synced(config.svidWaitMs);
    await certificates.ready(
      pods.all().map((p) => p.identity),
      config.svidWaitMs,
    );
    const listening = await endpoints.listen();
    if (!listening.ok) return listening;
    const serving = await takeover.serve();
    if (!serving.ok) return serving;
    phase = "ready";
    nodePods.watch();
    await (takeover.predecessor === 0 ? nodePods.sync() : takeBack());
    const answering = await cni.start();
    if (!answering.ok) return answering;
    await certificates.settled();
    log.info("ready", { pods: pods.all().length, interception: interception.way, replaced: takeover.predecessor });
    return ok(undefined);
  }
}
