// Pods of this node in and out of the mesh: what the node says of them, compared with what native holds. Never waits for the
// controller (DP-22). A pod's way: accepts both -> announced (the controller hears of it) -> strict; and back in reverse (DP-9).
import type { PodName, SpiffeId, TrustDomain } from "../api/names.ts";
import type { MeshSettings } from "../api/settings.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Result } from "../base/result.ts";
import type { LocalPod, LocalPods } from "../flow.ts";
import type { Native } from "../native.ts";
import type { CallFault, PodEnrolment } from "../native-calls.ts";
import { Departed, finished, unheard } from "./leave.ts";
import { localPodOf, type PodOptions, type PodRecord, podNameOf, podOptions, wantsMesh } from "./pod-record.ts";
import type { PodsRead } from "./pod-source.ts";

export interface EnrolledPod extends ReturnType<typeof localPodOf> {
  /** Number of the pod in verdict rows; unlike any that another process gave out. */
  readonly number: number;
  readonly cookie: bigint;
  readonly listening: ReadonlySet<number>;
  readonly options: PodOptions;
}
export interface PodStatus {
  readonly pod: PodName;
  readonly enrolled: boolean;
  /** Out, refused by native or for what it runs on, taking both plain and tunnelled, known to others by its tunnel, tunnels only, on its way out (DP-9). */
  readonly state: "out" | "failed" | "refused" | "enrolled" | "announced" | "strict" | "leaving";
  readonly reason: string;
  readonly identity?: string;
  readonly listening?: readonly number[];
}

export interface EnrolParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Logger;
  readonly node: string;
  readonly trustDomain: TrustDomain;
  readonly settings: () => MeshSettings;
  readonly isStrict: (pod: LocalPod) => boolean;
  /** Whether other nodes are told that this pod speaks the tunnel. */
  readonly isAnnounced: (pod: LocalPod) => boolean;
  /** Whether the controller was told that the pod is in the mesh, and has not confirmed yet that it heard otherwise. */
  readonly isClaimed: (pod: LocalPod) => boolean;
  /** The enrolled set, a pod's listening ports or its options changed. */
  readonly changed: (pods: readonly PodName[]) => void;
  /** First number for pods: random per process, so that rows of an earlier agent never mean a pod of this one. */
  readonly firstNumber: number;
  /** How long unenrolment waits for the announcement to be withdrawn, ms. */
  readonly withdrawMs: number;
  readonly drainMs: number;
  /**
   * Pods that run already wait for their identity's first certificate, or their connections would be refused for want of one. Absent: none wait.
   */
  readonly certificates?: {
    /** Not while another agent's pods are taken over: those are in the mesh. */
    readonly isPatient: () => boolean;
    readonly has: (identity: SpiffeId) => boolean;
    readonly waitMs: number;
  };
  /** Connections that were open when the pod was enrolled (DP-23). */
  readonly existing: (pod: LocalPod, strict: boolean, sockets: readonly { local: string; remote: string }[]) => void;
}

interface Entry {
  pod: EnrolledPod;
  /** What native was told, to see whether it must be told again; empty: it must, and is to take the pod from another agent (`tellAgain`). */
  told: string;
  /** The same name with another one of these is another pod. */
  readonly birth: string;
  readonly strict: boolean;
  state: "enrolled" | "unenrolling";
  /** While native lets go of it: settled when that is done. */
  leaving?: Promise<unknown>;
  readonly ports: Set<number>;
  /** Which turn it came in: a list of pods that is older says nothing about it. */
  readonly turn: number;
}

export class Enrolment implements LocalPods {
  readonly #parts: EnrolParts;
  readonly #entries = new Map<PodName, Entry>();
  readonly #byAddress = new Map<string, EnrolledPod>();
  /** Pods that native is being told of: it may take their connections, and ask about them, before its reply is read here. */
  readonly #arriving = new Map<PodName, EnrolledPod>();
  readonly #departed: Departed<EnrolledPod>;
  #statuses = new Map<PodName, PodStatus>();
  #nextNumber: number;
  #turn = 0;
  /** Pods that are to be enrolled when their certificate has come: since when they wait, monotonic ms. */
  readonly #waiting = new Map<PodName, { readonly identity: SpiffeId; readonly sinceMs: number }>();
  /** What is being done about a pod: one thing after the other. */
  readonly #busy = new Map<PodName, Promise<unknown>>();
  /** Reasons that were told: they are the node's, not the pod's. */
  readonly #unguarded = new Set<string>();

  constructor(parts: EnrolParts) {
    this.#parts = parts;
    this.#nextNumber = parts.firstNumber;
    this.#departed = new Departed(parts.clock, () => parts.changed([]));
  }

  byName(name: PodName): EnrolledPod | undefined {
    return this.#entries.get(name)?.pod ?? this.#arriving.get(name);
  }
  asked(name: PodName): EnrolledPod | undefined {
    return this.byName(name) ?? this.#departed.get(name);
  }
  byAddress(address: string): EnrolledPod | undefined {
    const known = this.#byAddress.get(address);
    if (known !== undefined || this.#arriving.size === 0) return known;
    return [...this.#arriving.values()].find((pod) => pod.workload.addresses.includes(address));
  }
  all(): readonly EnrolledPod[] {
    return [...this.#entries.values()].map((entry) => entry.pod);
  }
  /** Those, and pods that have left a short while ago (`draining`): connections of theirs may not have ended. */
  known(): readonly EnrolledPod[] {
    return [...this.#departed.all(), ...this.all()];
  }
  /** Identities of pods that are in, wait for a certificate to be, or have just left: what native took of those may have no tunnel yet. */
  identities(): readonly SpiffeId[] {
    return [...this.known(), ...this.#waiting.values()].map((pod) => pod.identity);
  }
  /** As of now: a pod that was announced, began to listen or has left since the last sync shows it. */
  statuses(): readonly PodStatus[] {
    return [...this.#statuses.values()].map((status) => {
      const entry = this.#entries.get(status.pod);
      if (status.enrolled && entry !== undefined) return this.#statusOf(entry, status.reason);
      return status.state === "leaving" && entry === undefined ? { ...status, state: "out" } : status;
    });
  }

  /** To be taken before the list of pods is read that `sync` is given. */
  turn(): number {
    return this.#turn;
  }

  /**
   * Enrols one pod now, if it is to be in the mesh: the runtime tells of it before any list does. Repeating it, and a list that has the same
   * pod, change nothing.
   */
  async enrolNow(record: PodRecord): Promise<PodStatus> {
    this.#turn += 1;
    const changed: PodName[] = [];
    const status = await this.#one(record, changed, true);
    this.#statuses.set(status.pod, status);
    if (changed.length > 0) this.#parts.changed(changed);
    return status;
  }

  /**
   * Brings native in line with what the node says. Pods are independent: one that fails is reported and tried again next time. `turn`: as of
   * before the list was read; pods that came since are not missed in it.
   */
  async sync(read: PodsRead, turn = this.#turn): Promise<readonly PodStatus[]> {
    const seen = new Set(read.records.map(podNameOf));
    const statuses = new Map<PodName, PodStatus>();
    const changed: PodName[] = [];
    const came = new Set([...this.#entries].flatMap(([name, entry]) => (entry.turn > turn ? [name] : [])));
    const gone = [...this.#entries.keys()].filter((name) => !seen.has(name) && !came.has(name));
    const left = new Set(gone.flatMap((name) => this.#entries.get(name)?.pod.workload.addresses ?? []));
    const going = Promise.all(gone.map((name) => this.#gone(name, changed)));
    await Promise.all(
      read.records.map(async (record) => {
        // Who has an address of one that goes comes after it.
        if (record.ips.some((ip) => left.has(ip))) await going;
        const status = await this.#one(record, changed);
        statuses.set(status.pod, status);
      }),
    );
    await going;
    for (const name of this.#waiting.keys()) if (!seen.has(name)) this.#waiting.delete(name);
    for (const [name, status] of this.#statuses)
      if (!statuses.has(name) && (this.#entries.get(name)?.turn ?? 0) > turn) statuses.set(name, status);
    this.#statuses = statuses;
    if (changed.length > 0) this.#parts.changed(changed);
    return this.statuses();
  }

  /** Another agent had these pods too (docs/takeover.md): at the next sync native takes each from whoever has it. */
  tellAgain(): void {
    for (const entry of this.#entries.values()) entry.told = "";
  }

  /** While draining, pods are the successor's; only what is gone must end here too (DP-21). */
  async syncGone(read: PodsRead): Promise<readonly PodStatus[]> {
    const seen = new Set(read.records.map(podNameOf));
    const changed: PodName[] = [];
    await Promise.all([...this.#entries.keys()].filter((n) => !seen.has(n)).map((n) => this.#gone(n, changed)));
    return this.statuses();
  }

  /** Native saw a pod begin or cease to listen on a port. */
  listening(name: PodName, port: number, open: boolean): void {
    const entry = this.#entries.get(name);
    if (entry === undefined || entry.ports.has(port) === open) return;
    if (open) entry.ports.add(port);
    else entry.ports.delete(port);
    this.#parts.changed([name]);
  }

  /** Whatever is under way with the pod comes first. */
  async #one(record: PodRecord, changed: PodName[], atOnce = false): Promise<PodStatus> {
    const name = podNameOf(record);
    const before = this.#busy.get(name)?.catch(() => {}) ?? Promise.resolve();
    const turn = before.then(() => this.#bring(record, changed, atOnce));
    this.#busy.set(name, turn);
    try {
      return await turn;
    } finally {
      if (this.#busy.get(name) === turn) this.#busy.delete(name);
    }
  }

  async #bring(record: PodRecord, changed: PodName[], atOnce: boolean): Promise<PodStatus> {
    const name = podNameOf(record);
    const wish = wantsMesh(record, this.#parts.settings());
    if (!wish.enrol) {
      this.#waiting.delete(name);
      const entry = this.#entries.get(name);
      if (entry?.state === "enrolled") void this.#unenrol(entry);
      return { pod: name, enrolled: false, state: entry === undefined ? "out" : "leaving", reason: wish.reason };
    }
    if (record.refused !== undefined) {
      if (this.#statuses.get(name)?.reason !== record.refused)
        this.#parts.log.warn("pod_refused", { pod: name, reason: record.refused });
      return { pod: name, enrolled: false, state: "refused", reason: record.refused };
    }
    if (!atOnce && this.#waits(record, changed))
      return { pod: name, enrolled: false, state: "out", reason: "it waits for its certificate" };
    this.#waiting.delete(name);
    return this.#enrol(record, wish.reason, changed);
  }

  /** Whether the pod is better left alone for now: it is new to the mesh and has no certificate yet. */
  #waits(record: PodRecord, changed: PodName[]): boolean {
    const { certificates, clock, trustDomain, node } = this.#parts;
    const { name, identity } = localPodOf(record, trustDomain, node);
    if (certificates === undefined || this.#entries.has(name) || !certificates.isPatient()) return false;
    if (certificates.has(identity)) return false;
    const waiting = this.#waiting.get(name);
    if (waiting !== undefined) return clock.monotonicMs() - waiting.sinceMs < certificates.waitMs;
    this.#waiting.set(name, { identity, sinceMs: clock.monotonicMs() });
    changed.push(name);
    return true;
  }

  async #enrol(record: PodRecord, reason: string, changed: PodName[]): Promise<PodStatus> {
    const { native, log, node, trustDomain, settings, isStrict } = this.#parts;
    const local = localPodOf(record, trustDomain, node);
    const birth = `${record.uid} ${record.netns}`;
    // Deleted and made again under its name before anybody looked: the old one ends first.
    const namesake = this.#entries.get(local.name);
    if (namesake !== undefined && namesake.birth !== birth) await this.#gone(local.name, changed);
    // It comes back while native lets it go: it is forgotten first, then arrives like any other. Who only waits to unenrol it stops by its state.
    await namesake?.leaving;
    const before = this.#entries.get(local.name);
    const options = podOptions(record);
    const strict = isStrict(local);
    const number = before?.pod.number ?? this.#nextNumber++;
    const { excludedPorts, excludedCidrs } = settings();
    const ask: Omit<PodEnrolment, "take"> = {
      pod: local.name,
      netns: record.netns,
      ips: record.ips,
      identity: local.identity,
      identityNumber: number,
      strict,
      failOpen: !strict && (options.failOpen ?? true),
      bypass: options.bypass,
      probePorts: record.probePorts,
      exclude: {
        outboundPorts: [...excludedPorts, ...options.outboundPorts],
        inboundPorts: options.inboundPorts,
        outboundCidrs: [...excludedCidrs, ...options.outboundCidrs],
        inboundCidrs: [],
      },
    };
    const told = JSON.stringify([ask, record.uid, record.labels]);
    const trouble = options.problems.length === 0 ? "" : `; ${options.problems.join("; ")}`;
    if (before?.told === told && before.state === "enrolled") return this.#statusOf(before, reason + trouble);
    if (before !== undefined) before.state = "enrolled";
    else this.#arriving.set(local.name, { ...local, number, cookie: 0n, listening: new Set(), options });
    const reply = await native.call("pod.enrol", { ...ask, take: before?.told === "" });
    this.#arriving.delete(local.name);
    if (!reply.ok) {
      log.error("pod_not_enrolled", { pod: local.name, ...reply.error });
      return {
        pod: local.name,
        enrolled: false,
        state: "failed",
        reason: `${reply.error.code}: ${reply.error.message}`,
      };
    }
    const ports = before?.ports ?? new Set<number>();
    for (const port of reply.value.listening) ports.add(port);
    const pod = { ...local, number, cookie: BigInt(reply.value.cookie), listening: ports, options };
    const entry: Entry = { pod, told, birth, strict, state: "enrolled", ports, turn: this.#turn };
    if (before !== undefined) this.#forgetAddresses(before.pod);
    this.#entries.set(local.name, entry);
    this.#departed.forget(local.name);
    for (const ip of record.ips) this.#byAddress.set(ip, pod);
    changed.push(local.name);
    if (before === undefined) {
      log.info("pod_enrolled", { pod: local.name, identity: local.identity, strict, ms: reply.value.ms });
      this.#tellUnguarded(local.name, reply.value.unguarded);
      if (reply.value.existing.length > 0) this.#parts.existing(local, strict, reply.value.existing);
    }
    return this.#statusOf(entry, reason + trouble);
  }

  #tellUnguarded(pod: PodName, reason: string): void {
    if (reason === "" || this.#unguarded.has(reason)) return;
    this.#unguarded.add(reason);
    this.#parts.log.warn("pods_unguarded", { pod, reason, fix: "the CNI must drop packets with forged addresses" });
  }

  /** Announcement first, tunnels next, steering last (DP-9): nobody is left speaking a tunnel to a pod that cannot hear it. */
  async #unenrol(entry: Entry): Promise<void> {
    const { native, isAnnounced, isClaimed, drainMs } = this.#parts;
    const { name } = entry.pod;
    entry.state = "unenrolling";
    await unheard({ ...this.#parts, isAnnounced: (pod) => isAnnounced(pod) || isClaimed(pod) }, entry.pod);
    if (this.#entries.get(name) !== entry || entry.state !== "unenrolling") return; // came back or went meanwhile
    const leaving = native.call("pod.unenrol", { pod: name, drainMs }).then((done) => this.#left(entry, done));
    entry.leaving = leaving;
    await leaving;
  }

  #left(entry: Entry, done: Result<unknown, CallFault>): void {
    const { name } = entry.pod;
    delete entry.leaving;
    if (!done.ok) {
      this.#parts.log.error("pod_not_unenrolled", { pod: name, ...done.error });
      entry.state = "enrolled"; // tried again at the next sync
      return;
    }
    if (this.#entries.get(name) !== entry) return; // it came back meanwhile, and is another entry
    this.#forget(entry.pod);
    this.#departed.note(entry.pod);
    this.#parts.log.info("pod_unenrolled", { pod: name });
    this.#parts.changed([name]);
  }

  async #gone(name: PodName, changed: PodName[]): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry === undefined) return;
    entry.pod = { ...entry.pod, workload: { ...entry.pod.workload, draining: true } };
    await finished(this.#parts.native, this.#parts.clock, name, () => this.#parts.changed([name]));
    if (this.#entries.get(name) !== entry) return; // its end was seen twice, and a pod of that name may be here again
    this.#forget(entry.pod);
    changed.push(name);
    const done = await this.#parts.native.call("pod.gone", { pod: name });
    if (done.ok) this.#parts.log.info("pod_gone", { pod: name, closed: done.value.closed });
    else this.#parts.log.error("pod_gone_failed", { pod: name, ...done.error });
  }

  #statusOf(entry: Entry, reason: string): PodStatus {
    const listening = [...entry.ports].sort((a, b) => a - b);
    const state = entry.strict ? "strict" : this.#parts.isAnnounced(entry.pod) ? "announced" : "enrolled";
    return { pod: entry.pod.name, enrolled: true, state, reason, identity: entry.pod.identity, listening };
  }

  #forget(pod: EnrolledPod): void {
    this.#entries.delete(pod.name);
    this.#forgetAddresses(pod);
  }

  /** An address may already belong to another pod: only rows that still mean this one go. */
  #forgetAddresses(pod: EnrolledPod): void {
    for (const ip of pod.workload.addresses) if (this.#byAddress.get(ip)?.name === pod.name) this.#byAddress.delete(ip);
  }
}
