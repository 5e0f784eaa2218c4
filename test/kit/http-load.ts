// Runs in a pod: requests at a fixed rate over kept connections, by a client that tries nothing again (Node's own). Arguments: URL RATE
// CONNECTIONS [METHODS [short]]; short: no answer that takes its time. "stop" on stdin ends it: {sent, ok, failed, reasons, connections, servers, p50Ms, p99Ms, maxMs}.
import { Agent, request } from "node:http";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const [url = "", rate = "100", connections = "16", methods = "GET,POST", answers = "mixed"] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, maxSockets: Number(connections), scheduling: "fifo" });
const kinds = methods.split(",");
const patienceMs = 20_000;
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

const reasons = new Map<string, number>();
const servers = new Map<string, number>();
const times: number[] = [];
const sockets = new WeakSet<object>();
let opened = 0;
let sent = 0;
let ok = 0;
let underWay = 0;

const count = (map: Map<string, number>, key: string): void => void map.set(key, (map.get(key) ?? 0) + 1);

function ask(n: number): void {
  const method = kinds[n % kinds.length] as string;
  // Each in a while asks for an answer that takes its time, and for a long one.
  const path = answers === "short" ? "/" : n % 50 === 7 ? "/slow" : n % 50 === 9 ? "/long" : "/";
  const body = method === "POST" ? Buffer.alloc(1 + ((n * 37) % 900), n % 251) : undefined;
  const began = performance.now();
  let isOver = false;
  sent++;
  underWay++;
  const over = (reason?: string): void => {
    if (isOver) return;
    isOver = true;
    underWay--;
    times.push(performance.now() - began);
    if (reason === undefined) ok++;
    else count(reasons, `${method} ${path}: ${reason}`);
  };
  const asked = request(`${url}${path}`, { method, agent, timeout: patienceMs }, (answer) => {
    let got = 0;
    let text = "";
    answer.on("data", (chunk: Buffer) => {
      got += chunk.length;
      if (text.length < 256) text += chunk.toString("latin1", 0, 256);
    });
    answer.on("error", (error) => over(`answer cut: ${error.message}`));
    answer.on("end", () => {
      if (answer.statusCode !== 200) return over(`${answer.statusCode} ${text.slice(0, 120)}`);
      const [server = "", bytes = ""] = text.split(" ", 2);
      count(servers, server);
      if (Number(bytes) !== (body?.length ?? 0)) return over(`the server got ${bytes} bytes`);
      if (path === "/long" && got < 300_000) return over(`${got} bytes of a long answer`);
      over();
    });
  });
  asked.on("socket", (socket) => {
    if (sockets.has(socket)) return;
    sockets.add(socket);
    opened++;
  });
  asked.on("timeout", () => asked.destroy(new Error("no answer in time")));
  asked.on("error", (error: NodeJS.ErrnoException) => over(error.code ?? error.message));
  asked.end(body);
}

const start = performance.now();
let planned = 0;
const timer = setInterval(() => {
  const due = Math.floor(((performance.now() - start) / 1000) * Number(rate));
  // After a pause of this machine not all at once.
  if (due - planned > Number(rate)) planned = due - Number(rate);
  while (planned < due) ask(planned++);
}, 5);
say({ started: true });
for await (const line of createInterface({ input: process.stdin })) if (line === "stop") break;
clearInterval(timer);
for (let waited = 0; underWay > 0 && waited < patienceMs + 5_000; waited += 20) await sleep(20);
times.sort((a, b) => a - b);
const at = (share: number): number => Math.round((times[Math.floor(times.length * share)] ?? 0) * 100) / 100;
say({
  sent,
  ok,
  failed: sent - ok,
  reasons: Object.fromEntries(reasons),
  connections: opened,
  servers: servers.size,
  p50Ms: at(0.5),
  p99Ms: at(0.99),
  maxMs: Math.round(times.at(-1) ?? 0),
});
process.exit(0);
