// What a pod's way out of the mesh waits for: that no other agent speaks a tunnel to it any more (DP-9), that what its program left behind
// has gone out (DP-21). And pods that have just left, about whose last connections questions may still come.
import type { PodName } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import { hostOfEndpoint } from "../base/ip.ts";
import type { LocalPod } from "../flow.ts";
import type { Native } from "../native.ts";

export interface LeaveParts {
  readonly native: Native;
  readonly clock: Clock;
  /** Whether other nodes are still told, or may be told soon, that this pod speaks the tunnel. */
  readonly isAnnounced: (pod: LocalPod) => boolean;
  /** For how long that is waited for, ms. */
  readonly withdrawMs: number;
}

/**
 * What a program that ended has left in the agent's hands goes out before its pod is closed, at most for so long, ms: answers that it had
 * written, requests that are told to go elsewhere. All is closed within a second (DP-21).
 */
const finishMs = 700;
const lookMs = 20;
const announcedLookMs = 50;
/** Agents hear at different times that a tunnel is no longer announced: that none has used one for so long says that all have heard, ms. */
const settleMs = 1_000;
const settleLookMs = 100;

/**
 * Resolves when nobody is told of the pod's tunnel any more and no other agent has begun a stream to it for a while, in the end after twice
 * `withdrawMs`. What this agent has heard is not what others have: one may still go by an announcement that is withdrawn here already, also
 * by one before the last (a pod that left, came back and leaves again).
 */
export async function unheard({ native, clock, isAnnounced, withdrawMs }: LeaveParts, pod: LocalPod): Promise<void> {
  const deadlineMs = clock.monotonicMs() + withdrawMs;
  for (;;) {
    while (isAnnounced(pod) && clock.monotonicMs() < deadlineMs) await clock.sleep(announcedLookMs);
    if (clock.monotonicMs() >= deadlineMs) return;
    await settled(native, clock, pod, clock.monotonicMs() + withdrawMs);
    if (!isAnnounced(pod)) return;
  }
}

/** Resolves when no other agent has begun a stream to the pod for a while, at the latest at `untilMs`. */
async function settled(native: Native, clock: Clock, pod: LocalPod, untilMs: number): Promise<void> {
  const own = new Set(pod.workload.addresses);
  let before = "";
  let sinceMs = clock.monotonicMs();
  for (;;) {
    const listed = await native.call("tunnels.list", {});
    const used = (listed.ok ? listed.value.tunnels : [])
      .filter(({ direction, destination }) => direction === "inbound" && own.has(hostOfEndpoint(destination)))
      .map(({ id, streams }) => `${id}:${streams}`)
      .sort()
      .join();
    const nowMs = clock.monotonicMs();
    // One that ended says nothing; it counts all the same.
    if (used !== before) sinceMs = nowMs;
    before = used;
    if (nowMs >= untilMs || nowMs - sinceMs >= settleMs) return;
    await clock.sleep(settleLookMs);
  }
}

/** Resolves when nothing of a pod that goes is under way any more; `clients` is called, once, if its clients are to be told to go. */
export async function finished(native: Native, clock: Clock, pod: PodName, clients: () => void): Promise<void> {
  const untilMs = clock.monotonicMs() + finishMs;
  for (let looks = 0; ; looks++) {
    const left = await native.call("pod.unfinished", { pod });
    if (!left.ok || left.value.connections + left.value.sockets === 0 || clock.monotonicMs() >= untilMs) return;
    if (looks === 0) clients();
    await clock.sleep(lookMs);
  }
}

/**
 * For how long pods that have left are known, ms: a connection that native took before may be asked about after, and a stream of another
 * agent may be under way in a tunnel that native drains for as long (DRAIN_GRACE_MS in native/src/relay/tunnels.rs).
 */
const departedMs = 30_000;

/** Pods that are out of the mesh and alive, as they were in it. */
export class Departed<Pod extends LocalPod> {
  readonly #pods = new Map<PodName, Pod>();
  readonly #clock: Clock;
  readonly #forgotten: () => void;

  /** `forgotten`: the time of one is over. */
  constructor(clock: Clock, forgotten: () => void) {
    this.#clock = clock;
    this.#forgotten = forgotten;
  }

  note(pod: Pod): void {
    // Whoever holds connections of it is to end them when that harms nobody.
    const left = { ...pod, workload: { ...pod.workload, draining: true } };
    this.#pods.set(pod.name, left);
    this.#clock.after(departedMs, () => {
      if (this.#pods.get(pod.name) !== left) return;
      this.#pods.delete(pod.name);
      this.#forgotten();
    });
  }
  /** It is in again, or gone. */
  forget(name: PodName): void {
    this.#pods.delete(name);
  }
  get(name: PodName): Pod | undefined {
    return this.#pods.get(name);
  }
  all(): readonly Pod[] {
    return [...this.#pods.values()];
  }
}
