// Waiting in tests: for the thing itself, and so long that no slow or busy machine is taken for a fault.
import { setTimeout as sleep } from "node:timers/promises";

/** How long a test waits for what must come. */
export const patienceMs = 60_000;

/** Calls until the answer is neither undefined nor false. @throws Error naming what was waited for */
export async function waitFor<T>(
  what: string,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs: number = patienceMs,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
    await sleep(20);
  }
}

/** Calls until it does not throw, and gives what it returned. @throws what it threw last, or what is no `reason` to try again */
export async function eventually<T>(check: () => Promise<T> | T, reason: RegExp = /(?:)/): Promise<T> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline || !reason.test(String(error))) throw error;
    }
    await sleep(20);
  }
}
