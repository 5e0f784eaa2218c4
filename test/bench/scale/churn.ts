// Changes of endpoints at a steady rate, each timed from before its request to the API server until the last agent has seen it.
import { setTimeout as sleep } from "node:timers/promises";
import { sharedNowMs, stateKey } from "./agents.ts";
import type { Fleet } from "./fleet.ts";
import { type Placed, type World, workloadName } from "./world.ts";

export interface Churned {
  /** Milliseconds, one for each removal (a pod deleted, or not ready any more). */
  readonly removals: readonly number[];
  /** Of these two, from the answer of the API server. */
  readonly removalsAnswered: readonly number[];
  /** Milliseconds, one for each pod that became ready again. */
  readonly returns: readonly number[];
  /** Milliseconds from the creation of a pod, with the request that makes it ready. */
  readonly additions: readonly number[];
  /** Changes of what agents are told. */
  readonly changes: number;
  readonly seconds: number;
}

/** Three of five changes are of readiness, one is a deletion and one the creation of a pod in its place. */
export async function churn(
  world: World,
  fleet: Fleet,
  { perSecond, seconds }: { readonly perSecond: number; readonly seconds: number },
  say: (line: string) => void,
): Promise<Churned> {
  const figures = {
    removals: [] as number[],
    removalsAnswered: [] as number[],
    returns: [] as number[],
    additions: [] as number[],
  };
  const busy = new Set<string>();
  const unready: Placed[] = [];
  const deleted: number[] = [];
  const under = new Set<Promise<void>>();
  let failure: unknown;
  let changes = 0;
  let tookSeconds = 0;
  const began = performance.now();

  const timed = async (
    pod: Placed,
    state: "ready" | "unready" | "removed",
    act: () => Promise<unknown>,
  ): Promise<void> => {
    busy.add(pod.name);
    const { seen } = await fleet.expect(stateKey(workloadName(pod), state));
    const askedMs = sharedNowMs();
    await act();
    const answeredMs = sharedNowMs();
    const seenMs = await seen;
    (state === "ready" ? figures.returns : figures.removals).push(seenMs - askedMs);
    if (state !== "ready") figures.removalsAnswered.push(Math.max(0, seenMs - answeredMs));
    busy.delete(pod.name);
  };
  const pick = (): Placed => {
    for (;;) {
      const pod = world.pods[Math.floor(Math.random() * world.pods.length)];
      if (pod !== undefined && !busy.has(pod.name) && !unready.includes(pod)) return pod;
    }
  };
  const kinds: readonly (() => Promise<void>)[] = [
    async () => {
      const pod = pick();
      await timed(pod, "unready", () => world.setReady(pod, false));
      unready.push(pod);
    },
    async () => {
      const pod = unready.shift();
      if (pod !== undefined) await timed(pod, "ready", () => world.setReady(pod, true));
    },
    async () => {
      const pod = pick();
      world.pods.splice(world.pods.indexOf(pod), 1);
      await timed(pod, "removed", () => world.deletePod(pod));
      deleted.push(pod.service);
      await world.writeSlice(pod.service);
    },
    async () => {
      const pod = pick();
      await timed(pod, "unready", () => world.setReady(pod, false));
      unready.push(pod);
    },
    async () => {
      const service = deleted.shift();
      if (service === undefined) return;
      const pod = world.nextPod(service);
      const { seen } = await fleet.expect(stateKey(workloadName(pod), "ready"));
      const askedMs = sharedNowMs();
      await world.createPod(pod);
      figures.additions.push((await seen) - askedMs);
      world.pods.push(pod);
      await world.writeSlice(service);
    },
    async () => {
      const pod = unready.shift();
      if (pod !== undefined) await timed(pod, "ready", () => world.setReady(pod, true));
    },
  ];
  const asked = perSecond * seconds;
  const report = setInterval(
    () =>
      say(
        `${changes} of ${asked} changes seen, ${under.size} under way, after ${Math.round((performance.now() - began) / 1000)} s`,
      ),
    5_000,
  );
  try {
    for (let i = 0; i < asked; i++) {
      const dueMs = began + (i * 1000) / perSecond;
      await sleep(Math.max(0, dueMs - performance.now()));
      if (failure !== undefined) throw failure;
      const one: Promise<void> = (kinds[i % kinds.length] as () => Promise<void>)()
        .then(() => {
          changes += 1;
        })
        .catch((error: unknown) => {
          failure ??= error;
        })
        .finally(() => under.delete(one));
      under.add(one);
    }
    tookSeconds = (performance.now() - began) / 1000;
    await Promise.all([...under]);
  } finally {
    clearInterval(report);
  }
  if (failure !== undefined) throw failure;
  for (const pod of unready) await world.setReady(pod, true);
  return { ...figures, changes, seconds: tookSeconds };
}
