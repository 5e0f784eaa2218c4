// Visits of real, unmodified programs to their servers through the mesh. Each returns what was seen in a few words and throws on
// anything else; tests and `npm run prove -- programs` run the same ones, from both nodes, over IPv4 and IPv6.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { PodProgram } from "../lab/programs.ts";
import type { TestLab } from "./lab.ts";
import { patienceMs } from "./wait.ts";

export interface Visit {
  readonly lab: TestLab;
  /** The pod that the client runs in. */
  readonly client: string;
  /** Address of the server's service. */
  readonly host: string;
}
export interface RealProgram {
  readonly name: string;
  readonly server: string;
  visit(visit: Visit): Promise<string>;
}

const urlHost = (host: string): string => (host.includes(":") ? `[${host}]` : host);
const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

async function ran(visit: Visit, command: readonly string[], timeoutMs = 2 * patienceMs): Promise<string> {
  const done = await visit.lab.run(visit.client, command, timeoutMs);
  assert.equal(done.code, 0, `${command[0]} in ${visit.client}: exit code ${done.code}: ${done.stderr}${done.stdout}`);
  return done.stdout;
}

function psql(mode: "disable" | "require"): RealProgram["visit"] {
  const rows = "select repeat(md5(n::text), 100) from generate_series(1, 3000) n";
  return async (visit) => {
    const target = `host=${visit.host} user=postgres sslmode=${mode}`;
    const ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert.equal(await ran(visit, ["psql", target, "-Atc", ssl]), mode === "require" ? "t\n" : "f\n");
    const remote = await ran(visit, ["sh", "-c", `psql "${target}" -Atc "${rows}" | md5sum`]);
    const local = await visit.lab.run("shop/db", ["sh", "-c", `psql -h /tmp -U postgres -Atc "${rows}" | md5sum`]);
    assert.equal(remote, local.stdout);
    return "9.6 MB of rows whole";
  };
}

async function redis(visit: Visit): Promise<string> {
  const { host, lab, client } = visit;
  const key = `${client}-${host}`;
  const piped = await ran(visit, [
    "sh",
    "-c",
    `for i in $(seq 1 5000); do echo "INCR ${key}"; done | redis-cli -h ${host} --pipe; redis-cli -h ${host} getdel ${key}`,
  ]);
  assert.match(piped, /errors: 0, replies: 5000\n5000\n$/);
  const subscriber = `redis-cli -h ${host} subscribe news > /tmp/heard & for i in $(seq 1 600); do grep -q ^subscribe /tmp/heard && break; sleep 0.05; done
redis-cli -h ${host} publish news hello > /dev/null; for i in $(seq 1 600); do grep -q hello /tmp/heard && break; sleep 0.05; done; kill $!; cat /tmp/heard`;
  const heard = await lab.run(client, ["sh", "-c", subscriber]);
  assert.match(heard.stdout, /message\nnews\nhello/, heard.stderr);
  return "5,000 commands piped; publish and subscribe";
}

const login = `const [host, port, tries] = process.argv.slice(1); const net = require("node:net"); const times = [];
const once = () => new Promise((done, fail) => { const t = performance.now(); const s = net.connect({ host, port, noDelay: true }); let n = 0, all = Buffer.alloc(0);
  s.on("error", fail); s.on("data", (b) => { if (n++ === 0) { times.push(performance.now() - t); if (b[4] !== 10) fail(new Error("no greeting")); s.write(Buffer.from("\\x05\\0\\0\\x01login", "latin1")); } else all = Buffer.concat([all, b]); });
  s.on("end", () => all.subarray(5).toString() === "login" ? done() : fail(new Error("got " + all.toString("hex")))); });
(async () => { for (let i = 0; i < tries; i++) await once(); console.log(JSON.stringify(times)); })().catch((e) => { console.error(e.message); process.exit(1); });`;

/** Times from the connect to the server's greeting, ms, one per connection; each connection logs in and is answered. */
export async function greetings(visit: Visit, tries: number): Promise<readonly number[]> {
  const out = await ran(visit, [process.execPath, "-e", login, visit.host, "3306", String(tries)]);
  return JSON.parse(out) as number[];
}

async function greeting(visit: Visit): Promise<string> {
  assert.equal((await greetings(visit, 20)).length, 20);
  return "20 logins after the server's greeting";
}

/** @param uploads on one connection; curl 7.88 cannot do a second one over HTTP/2 with prior knowledge, mesh or not */
function curl(
  url: (host: string) => string,
  version: string,
  uploads: number,
  ...options: readonly string[]
): RealProgram["visit"] {
  const body = Buffer.alloc(3_000_000, "body of a request ");
  return async (visit) => {
    const base = url(urlHost(visit.host));
    const make = `"$0" -e 'require("node:fs").writeFileSync("/tmp/body", Buffer.alloc(3000000, "body of a request "))'`;
    await ran(visit, ["sh", "-c", make, process.execPath]);
    const format = "%{http_version} %{num_connects}\\n";
    const shared = ["-sSk", "-m", "60", "-w", format, ...options];
    const each = Array.from({ length: uploads }, (_, i) => ["-T", "/tmp/body", `${base}/${i}`]).flat();
    const out = await ran(visit, ["curl", ...shared, ...each]);
    const got = `${version === "2" ? "2.0" : version} got ${body.length} ${sha256(body)}`;
    const expected = Array.from({ length: uploads }, (_, i) => `${got}\n${version} ${i === 0 ? 1 : 0}\n`).join("");
    assert.equal(out, expected, "all uploads on one connection");
    const large = await ran(visit, ["sh", "-c", `curl -sSk -m 60 ${options.join(" ")} ${base}/large | sha256sum`]);
    assert.equal(large.split(" ")[0], sha256(Buffer.alloc(5_000_000, "fairlead ")));
    return `${3 * uploads} MB up on one connection, 5 MB down, whole`;
  };
}

async function webSocket(visit: Visit): Promise<string> {
  const script = `const w = new WebSocket(process.argv[1]); let n = 0;
w.onopen = () => w.send("m0"); w.onmessage = (e) => { if (e.data !== "m" + n) process.exit(3); if (++n === 200) w.close(); else w.send("m" + n); };
w.onerror = () => process.exit(4); w.onclose = () => { console.log("echoed " + n); process.exit(0); };`;
  const out = await ran(visit, [process.execPath, "-e", script, `ws://${urlHost(visit.host)}:8080/`]);
  assert.equal(out, "echoed 200\n");
  return "200 messages echoed";
}

function iperf(way: readonly string[]): RealProgram["visit"] {
  return async (visit) => {
    const out = await ran(visit, ["iperf3", "-c", visit.host, "-p", "5201", "-t", "1", "-P", "4", "-J", ...way]);
    const end = (JSON.parse(out) as { end?: { sum_received?: { bytes: number; bits_per_second: number } } }).end;
    assert.ok((end?.sum_received?.bytes ?? 0) > 1_000_000, out.slice(0, 300));
    return `4 streams, ${((end?.sum_received?.bits_per_second ?? 0) / 1e9).toFixed(1)} Gbit/s`;
  };
}

const sshOptions =
  "-F none -i /tmp/user -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";

/** A session of OpenSSH that answers every line; the caller ends it with `end("")`. */
export async function sshSession(visit: Visit): Promise<PodProgram> {
  const key = (await visit.lab.run("shop/ssh", ["cat", "/tmp/user"])).stdout;
  await ran(visit, ["sh", "-c", `rm -f /tmp/user; umask 077; printf '%s\\n' "$0" > /tmp/user`, key.trimEnd()]);
  const remote = `while read -r line; do printf '{"line":"%s"}\\n' "$line"; done`;
  return visit.lab.start(visit.client, ["ssh", "-T", ...sshOptions.split(" "), `root@${visit.host}`, remote]);
}

/** Small writes both ways, one after the other. */
export async function chat(session: PodProgram, from: number, count: number, pauseMs = 0): Promise<void> {
  for (let i = from; i < from + count; i++) {
    assert.deepEqual(await session.ask(`line ${i}`, patienceMs), { line: `line ${i}` });
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function ssh(visit: Visit): Promise<string> {
  const session = await sshSession(visit);
  await chat(session, 0, 100);
  assert.equal(await session.end(""), 0);
  const bulk = `head -c 5000000 /dev/zero | ssh ${sshOptions} root@${visit.host} cat | sha256sum`;
  assert.equal((await ran(visit, ["sh", "-c", bulk])).split(" ")[0], sha256(Buffer.alloc(5_000_000)));
  return "100 lines to and fro, 5 MB through cat whole";
}

export const realPrograms: readonly RealProgram[] = [
  { name: "psql", server: "shop/db", visit: psql("disable") },
  { name: "psql, its own TLS", server: "shop/db", visit: psql("require") },
  { name: "redis-cli", server: "shop/cache", visit: redis },
  { name: "MySQL-style greeting", server: "shop/greeter", visit: greeting },
  { name: "curl, HTTP/1.1", server: "shop/web", visit: curl((h) => `http://${h}:8080`, "1.1", 2) },
  { name: "curl, HTTP/1.1, TLS", server: "shop/web", visit: curl((h) => `https://${h}:8443`, "1.1", 2, "--http1.1") },
  {
    name: "curl, HTTP/2",
    server: "shop/web",
    visit: curl((h) => `http://${h}:8081`, "2", 1, "--http2-prior-knowledge"),
  },
  { name: "curl, HTTP/2, TLS", server: "shop/web", visit: curl((h) => `https://${h}:8443`, "2", 2, "--http2") },
  { name: "WebSocket", server: "shop/web", visit: webSocket },
  { name: "OpenSSH", server: "shop/ssh", visit: ssh },
  { name: "iperf3", server: "shop/perf", visit: iperf([]) },
  { name: "iperf3 -R", server: "shop/perf", visit: iperf(["-R"]) },
];

export interface Way {
  /** "same node" or "across nodes". */
  readonly path: string;
  readonly family: 4 | 6;
  /** Pod name of the client, without its namespace. */
  readonly client: "near" | "far";
}
export const ways: readonly Way[] = (["near", "far"] as const).flatMap((client) =>
  ([4, 6] as const).map((family) => ({ path: client === "near" ? "same node" : "across nodes", family, client })),
);

/** The visit of a client of `namespace` to a service, by the service's address of that family. */
export async function visitOf(lab: TestLab, way: Way, server: string, namespace = "shop"): Promise<Visit> {
  const service = (await lab.status()).services.find((s) => `${s.namespace}/${s.name}` === server);
  const host = service?.addresses.find((a) => a.includes(":") === (way.family === 6));
  if (host === undefined) throw new Error(`${server} has no IPv${way.family} address`);
  return { lab, client: `${namespace}/${way.client}`, host };
}
