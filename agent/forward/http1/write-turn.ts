// Whole messages of a thread's sockets wait until its reads of this turn of the event loop are done, and then go out one behind the other.
// A write wakes whoever reads the other end, which is dear if that sleeps: written together they find it awake (docs/benchmarks.md).

/** Somebody with bytes to write. */
export interface Waiter {
  /** Writes them. */
  flush(): void;
}

/** More do not wait: what is read last is not to be held up by so many others. */
export const mostWaiting = 64;

export class WriteTurn {
  // Requests go before answers: their servers work while these are written.
  #requests: Waiter[] = [];
  #answers: Waiter[] = [];
  #isDue = false;
  readonly #atEnd = (): void => {
    this.#isDue = false;
    this.flush();
  };

  /** `waiter` is flushed when the reads of this turn are done, or before; once for each time that it was added. */
  add(waiter: Waiter, isRequest: boolean): void {
    (isRequest ? this.#requests : this.#answers).push(waiter);
    if (!this.#isDue) {
      this.#isDue = true;
      setImmediate(this.#atEnd);
    }
    if (this.#requests.length + this.#answers.length >= mostWaiting) this.flush();
  }

  /** Writes all that waits now. */
  flush(): void {
    const [requests, answers] = [this.#requests, this.#answers];
    for (const waiter of requests) waiter.flush();
    requests.length = 0;
    for (const waiter of answers) waiter.flush();
    answers.length = 0;
  }
}

/** Of this thread. */
export const writeTurn = new WriteTurn();
