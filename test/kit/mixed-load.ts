// Runs in a pod: HTTP/1.1, HTTP/2 and gRPC mixed, by clients that come and go and try nothing again but what no server began, as curl and Go's client do. Arguments: HOST KINDS (of http1,http2,grpc) [steady|churn]; ports 80, 81, 82.
// churn: connections end after a while, some requests are given up and some connections reset by the client, some requests are for what a policy denies.
// Lines on stdin: "rate N" (requests a second), "max N" (N at once, as fast as they are answered), "report" -> counts since the last, "stop" -> the same, and the end.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type Asked, grpcAsker, http1Asker, http2Asker, type MixedAsker } from "./mixed-askers.ts";

export interface MixedReport {
  readonly sent: number;
  readonly ok: number;
  readonly failed: number;
  /** By the client itself, on purpose. */
  readonly givenUp: number;
  /** Begun by no server, and asked again on another connection (RFC 9113 §8.7). */
  readonly unsent: number;
  readonly connections: number;
  readonly reasons: Readonly<Record<string, number>>;
  readonly servers: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly seconds: number;
}

const [host = "", kinds = "http1,http2,grpc", mode = "steady"] = process.argv.slice(2);
const churns = mode === "churn";
const makers = { http1: http1Asker, http2: http2Asker, grpc: grpcAsker };
const askers: readonly MixedAsker[] = kinds.split(",").map((kind) => makers[kind as keyof typeof makers](host, churns));

const fresh = () => ({
  beganMs: performance.now(),
  sent: 0,
  ok: 0,
  givenUp: 0,
  unsent: 0,
  reasons: new Map<string, number>(),
  servers: new Set<string>(),
  times: [] as number[],
});
let seen = fresh();
/** Of each kind. More wait here: streams that wait in Node's client for a place on their connection are refused by it when that is to end. */
const mostUnderWay = 80;
/** How often a request goes again that no server began; curl does it 5 times, Go's client 6 times. */
const mostAgain = 5;
const underWayOf = new Map<MixedAsker, number>();
let underWay = 0;
let atOnce = 0;
let n = 0;

/** The next one; false: as many of its kind are under way as may be. */
function ask(): boolean {
  const asker = askers[n % askers.length] as MixedAsker;
  const ofKind = underWayOf.get(asker) ?? 0;
  if (ofKind >= mostUnderWay) return false;
  underWayOf.set(asker, ofKind + 1);
  const number = Math.floor(n++ / askers.length);
  const began = performance.now();
  seen.sent++;
  underWay++;
  const over = ({ failed, givenUp, isUnsent, server }: Asked): void => {
    underWay--;
    underWayOf.set(asker, (underWayOf.get(asker) ?? 0) - 1);
    seen.times.push(performance.now() - began);
    if (server !== undefined) seen.servers.add(server);
    if (givenUp === true) seen.givenUp++;
    else if (failed === undefined && isUnsent !== true) seen.ok++;
    else {
      const reason = `${asker.kind} ${failed ?? "refused again and again"}`;
      seen.reasons.set(reason, (seen.reasons.get(reason) ?? 0) + 1);
    }
    if (atOnce > underWay) setImmediate(fill);
  };
  let again = 0;
  const told = (asked: Asked): void => {
    if (asked.isUnsent !== true || again++ >= mostAgain) over(asked);
    else {
      seen.unsent++;
      asker.ask(number, told);
    }
  };
  asker.ask(number, told);
  return true;
}
function fill(): void {
  while (underWay < atOnce && ask());
}

function report(): MixedReport {
  const { beganMs, sent, ok, givenUp, unsent, reasons, servers, times } = seen;
  seen = fresh();
  times.sort((a, b) => a - b);
  const at = (share: number): number => Math.round((times[Math.floor(times.length * share)] ?? 0) * 10) / 10;
  return {
    sent,
    ok,
    failed: [...reasons.values()].reduce((sum, count) => sum + count, 0),
    givenUp,
    unsent,
    connections: askers.reduce((sum, asker) => sum + asker.takeOpened(), 0),
    reasons: Object.fromEntries(reasons),
    servers: servers.size,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    seconds: (performance.now() - beganMs) / 1000,
  };
}

let rate = 0;
let startMs = performance.now();
let planned = 0;
const timer = setInterval(() => {
  const due = Math.floor(((performance.now() - startMs) / 1000) * rate);
  // After a pause of this machine not all at once.
  if (due - planned > rate) planned = due - rate;
  while (planned < due && ask()) planned++;
}, 5);
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
say({ started: true });
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, value] = line.split(" ");
  if (verb === "stop") break;
  if (verb === "report") say(report());
  else {
    rate = verb === "rate" ? Number(value) : 0;
    atOnce = verb === "max" ? Number(value) : 0;
    startMs = performance.now();
    planned = 0;
    fill();
    say({ [verb ?? ""]: Number(value) });
  }
}
clearInterval(timer);
atOnce = 0;
for (let waited = 0; underWay > 0 && waited < 25_000; waited += 20) await sleep(20);
say(report());
process.exit(0);
