// Runs in a pod: `node traffic-client.ts MODE --host H --port P ...`, prints one JSON line per report.
// short: --count N --concurrency C [--rate PER_SECOND] new connections, small sizes. long: --count N at once, sizes up to --max bytes.
// load: --rate R until "stop" on standard input. idle: --count N held open; each line "check" proves all of them, "quit" ends.
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { type Attempt, attempt, Idle, serverStats } from "./traffic-connection.ts";
import { type Head, type Order, random } from "./traffic-wire.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    host: { type: "string", default: "localhost" },
    port: { type: "string", default: "7000" },
    count: { type: "string", default: "100" },
    concurrency: { type: "string", default: "16" },
    rate: { type: "string", default: "0" },
    max: { type: "string", default: "2048" },
    seed: { type: "string", default: "1" },
    timeout: { type: "string", default: "10000" },
    orders: { type: "string", default: "request,client-fin,server-fin,both" },
    hold: { type: "string", default: "0" },
  },
});
const mode = positionals[0] ?? "short";
const target = {
  host: values.host,
  port: Number(values.port),
  timeoutMs: Number(values.timeout),
  holdMs: Number(values.hold),
};
const next = random(Number(values.seed));
const kinds = values.orders.split(",") as Order[];
const newHead = (): Head => ({
  order: kinds[Math.floor(next() * kinds.length)] ?? "request",
  seed: Math.floor(next() * 4_294_967_295),
  up: Math.floor(next() * Number(values.max)),
  down: Math.floor(next() * Number(values.max)),
});

/** What a run did; times in milliseconds. */
class Tally {
  ok = 0;
  failed = 0;
  bytes = 0;
  readonly reasons: Record<string, number> = {};
  readonly #first: number[] = [];
  readonly #started = performance.now();
  /** Longest time in which no attempt succeeded: the gap that a user would notice. */
  longestGapMs = 0;
  #lastOk = performance.now();

  add(a: Attempt): void {
    if (!a.ok) {
      this.failed++;
      this.reasons[a.reason] = (this.reasons[a.reason] ?? 0) + 1;
      return;
    }
    this.ok++;
    this.bytes += a.bytes;
    const now = performance.now();
    this.longestGapMs = Math.max(this.longestGapMs, now - this.#lastOk);
    this.#lastOk = now;
    if (this.#first.length < 200_000) this.#first.push(a.totalMs);
  }

  report(): Record<string, unknown> {
    const sorted = this.#first.sort((a, b) => a - b);
    const at = (q: number): number =>
      Math.round((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0) * 1000) / 1000;
    const seconds = (performance.now() - this.#started) / 1000;
    const { ok, failed, bytes, reasons } = this;
    return {
      ok,
      failed,
      reasons,
      bytes,
      seconds: Math.round(seconds * 1000) / 1000,
      perSecond: Math.round(ok / seconds),
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      maxMs: at(1),
      longestGapMs: Math.round(this.longestGapMs),
    };
  }
}

const print = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

async function closedLoop(count: number, concurrency: number): Promise<void> {
  const tally = new Tally();
  let left = count;
  const worker = async (): Promise<void> => {
    while (left-- > 0) tally.add(await attempt(target, newHead()));
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  print({ ...tally.report(), server: await serverStats(target) });
}

/** Open loop: connections start on time whether earlier ones have finished or not, so a stall is not hidden by waiting. */
async function load(rate: number, count: number): Promise<void> {
  const tally = new Tally();
  const running = new Set<Promise<void>>();
  const started = performance.now();
  let sent = 0;
  let stopped = false;
  const input = createInterface({ input: process.stdin });
  input.on("line", (line) => {
    if (line === "stop") stopped = true;
    else if (line === "report") print(tally.report());
  });
  input.on("close", () => {
    stopped = true;
  });
  print({ started: true });
  while (!stopped && (count === 0 || sent < count)) {
    const due = Math.min(
      Math.floor(((performance.now() - started) / 1000) * rate),
      count === 0 ? Number.POSITIVE_INFINITY : count,
    );
    for (; sent < due; sent++) {
      const one: Promise<void> = attempt(target, newHead()).then((a) => {
        tally.add(a);
        running.delete(one);
      });
      running.add(one);
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await Promise.all(running);
  print({ sent, ...tally.report(), server: await serverStats(target) });
  process.exit(0);
}

async function idle(count: number): Promise<void> {
  const all: Idle[] = [];
  let refused = 0;
  for (let i = 0; i < count; i += 50) {
    const batch = await Promise.all(
      Array.from({ length: Math.min(50, count - i) }, (_, j) =>
        Idle.open(target, Number(values.seed) * 100_000 + i + j),
      ),
    );
    for (const one of batch)
      if (one === undefined) refused++;
      else all.push(one);
  }
  print({ open: all.length, refused });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === "quit") break;
    const results = await Promise.all(all.map((one) => one.prove()));
    const reasons: Record<string, number> = {};
    for (const r of results) if (r !== "ok") reasons[r] = (reasons[r] ?? 0) + 1;
    print({ checked: all.length, ok: results.filter((r) => r === "ok").length, reasons });
  }
  for (const one of all) one.close();
  process.exit(0);
}

if (mode === "idle") await idle(Number(values.count));
else if (mode === "load") await load(Number(values.rate) || 100, values.count === "100" ? 0 : Number(values.count));
else if (mode === "long") await closedLoop(Number(values.count), Number(values.count));
else if (Number(values.rate) > 0) await load(Number(values.rate), Number(values.count));
else await closedLoop(Number(values.count), Number(values.concurrency));
