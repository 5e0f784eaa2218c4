// ^C while a command has something to clean up: it is cleaned up, said, and the exit code is the signal's. A second ^C does not wait.

const numbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;
type Signal = keyof typeof numbers;

/**
 * Runs `work`; a signal meanwhile runs `cleanUp` and ends the process with 128 + its number.
 * @param say where the sentence about it goes
 */
export async function interruptible<T>(
  work: () => Promise<T>,
  cleanUp: () => Promise<unknown>,
  say: (line: string) => void,
): Promise<T> {
  let interrupted = false;
  const onSignal = (signal: Signal): void => {
    const leave = (): never => process.exit(128 + numbers[signal]);
    if (interrupted) leave();
    interrupted = true;
    say("interrupted: taking down what was started (once more to leave it)");
    void cleanUp().then(leave, leave);
  };
  const signals = Object.keys(numbers) as Signal[];
  for (const signal of signals) process.on(signal, onSignal);
  try {
    const done = await work();
    // The clean-up ends the process; until then nobody is told of a result that is being taken down.
    return interrupted ? await new Promise<never>(() => {}) : done;
  } catch (error) {
    if (interrupted) return await new Promise<never>(() => {});
    throw error;
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
  }
}
