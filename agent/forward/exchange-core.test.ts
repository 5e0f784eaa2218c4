// Deadlines of an exchange whose object serves one request after the other, by a clock that moves only when told.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { ExchangeCore } from "./exchange-core.ts";
import type { Forward, Handler } from "./http1/exchange.ts";
import { Sweep } from "./http1/sweep.ts";

class Asked extends ExchangeCore {
  protected override readonly handler = {} as Handler;
  protected override readonly times: Sweep;
  readonly ends: string[] = [];
  readonly clock;
  constructor(clock: ReturnType<typeof createFakeClock>) {
    super("http1");
    this.clock = clock;
    this.times = new Sweep(clock);
    this.times.add({ sweep: (now) => void (this.isUnderWay && this.checkDeadlines(now)) });
  }
  override get canResend(): boolean {
    return false;
  }
  protected override get awaitsServer(): boolean {
    return this.isUnderWay;
  }
  begin(decision: Partial<Forward>): void {
    this.isUnderWay = true;
    this.activeMs = this.clock.monotonicMs();
    this.clearFacts("GET");
    this.follow({ kind: "forward", ...decision } as Forward);
  }
  sent(): void {
    this.awaitAnswer();
  }
  answered(): void {
    this.isUnderWay = false;
  }
  stop(): void {
    this.times.stop();
  }
  protected override startTry({ timeoutMs = 0, tryTimeoutMs = 0 }: Forward): void {
    if (timeoutMs > 0) this.deadlineMs = this.startedMs + timeoutMs;
    this.tryDeadlineMs = tryTimeoutMs > 0 ? this.triesSinceMs() + tryTimeoutMs : 0;
    this.stallMs = 300_000;
  }
  protected override look(): void {}
  protected override respond(): void {}
  protected override fail(): void {}
  protected override expired(why: string): void {
    this.isUnderWay = false;
    this.ends.push(`${why} after ${Math.round(this.clock.monotonicMs() - this.startedMs)}`);
  }
  override threw(error: unknown): void {
    throw error;
  }
}

/** ms after its begin at which the last request expired. */
const lastEnd = ({ ends }: Asked): number => Number(/\d+$/.exec(ends.at(-1) ?? "")?.[0] ?? Number.NaN);

test("[RES-6] a timeout of 50 ms ends after 50 ms and not 100, whenever the sweep came, with one timer for all requests", () => {
  const clock = createFakeClock();
  const asked = new Asked(clock);
  for (const [i, decision] of [{ timeoutMs: 50 }, { tryTimeoutMs: 50 }, { responseTimeoutMs: 50 }].entries()) {
    clock.advance(33 + i);
    asked.begin(decision);
    asked.sent();
    clock.advance(49);
    assert.equal(asked.ends.length, i);
    clock.advance(10);
    assert.equal(asked.ends.length, i + 1);
    assert.ok(lastEnd(asked) <= 55, `${asked.ends}`);
  }
  assert.deepEqual(
    asked.ends.map((end) => end.split(" ")[0]),
    ["request_timeout", "try_timeout", "response_timeout"],
  );
  asked.stop();
});

test("[RES-6] a request that ends in time leaves nothing that could end the next one early, nor a timer of its own", () => {
  const clock = createFakeClock();
  const asked = new Asked(clock);
  for (let i = 0; i < 200; i++) {
    asked.begin({ timeoutMs: 300 });
    clock.advance(7);
    // The sweep's, and one for all deadlines.
    assert.ok(clock.pending <= 2);
    asked.answered();
  }
  assert.deepEqual(asked.ends, []);
  asked.begin({ timeoutMs: 300 });
  clock.advance(299);
  assert.deepEqual(asked.ends, []);
  clock.advance(10);
  assert.ok(lastEnd(asked) >= 300 && lastEnd(asked) <= 305, `${asked.ends}`);
  asked.stop();
});

test("[RES-6] a far deadline is the sweep's, a nearer one of a later request on the same object is seen in time", () => {
  const clock = createFakeClock();
  const asked = new Asked(clock);
  asked.begin({ timeoutMs: 1_000 });
  clock.advance(10);
  asked.answered();
  asked.begin({ timeoutMs: 20 });
  clock.advance(26);
  assert.match(asked.ends.join(), /^request_timeout after 2[0-5]$/);
  asked.begin({ timeoutMs: 10_000 });
  clock.advance(9_999);
  assert.equal(asked.ends.length, 1);
  clock.advance(150);
  assert.equal(asked.ends.length, 2);
  asked.stop();
});
