// Signs of life: the heartbeat to native, and what becomes of an agent whose native half cannot go on. It ends with one clear
// line, so that whoever supervises it starts another; until then the kernel treats it as dead, by the namespace's mode (INT-14).
import { type Clock, every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Result } from "../base/result.ts";
import type { CallFault } from "../native-calls.ts";

export interface LivenessParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly beat: () => Promise<Result<object, CallFault>>;
  readonly everyMs: number;
  /** After so long without a heartbeat the kernel takes the agent for dead. */
  readonly deadMs: number;
  /** Ends the agent. */
  readonly end: () => void;
}

/** A worker that hangs is a bug and seldom comes back; a call thread that is busy (programs being loaded) does. */
const hungTimes = 2;
const silentTimes = 12;

/** Beats until the returned function is called. */
export function startLiveness(parts: LivenessParts): () => void {
  const { clock, log, deadMs } = parts;
  let failingSince: number | undefined;
  let ended = false;
  const look = (result: Result<object, CallFault>): void => {
    if (ended) return;
    if (result.ok || result.error.code === "channel_closed") {
      if (failingSince !== undefined) log.info("heartbeat_again", { afterMs: since() });
      failingSince = undefined;
      return;
    }
    if (failingSince === undefined) log.error("heartbeat_failed", { ...result.error });
    failingSince ??= clock.monotonicMs();
    const patience = deadMs * (result.error.code === "worker_hung" ? hungTimes : silentTimes);
    if (since() < patience) return;
    ended = true;
    log.error("native_hung", { ...result.error, forMs: since(), action: "the agent ends, to be started again" });
    parts.end();
  };
  const since = (): number => Math.round(clock.monotonicMs() - (failingSince ?? clock.monotonicMs()));
  const stop = every(clock, parts.everyMs, () => void parts.beat().then(look));
  return () => {
    ended = true;
    stop();
  };
}
