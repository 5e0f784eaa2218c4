// Servers of the real programs that the tests and `npm run prove -- programs` visit: pods on node1, each with its readiness.
import { clientPod, namespace, peerAuthentication, pod, readyOn, service } from "./manifests.ts";

const dual = { ipFamilyPolicy: "RequireDualStack" } as const;
const answers = (...command: readonly string[]): Readonly<Record<string, unknown>> => ({
  readinessProbe: { exec: { command }, periodSeconds: 1 },
});

const postgres = pod(
  "shop/db",
  [
    "setpriv",
    "--reuid=postgres",
    "--regid=postgres",
    "--clear-groups",
    "sh",
    "-ec",
    `PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -1)
initdb -D /tmp/data -A trust -U postgres -E UTF8 --no-locale --no-sync > /tmp/initdb.log
openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/data/server.key -out /tmp/data/server.crt -days 2 -subj /CN=db 2>/dev/null
chmod 600 /tmp/data/server.key
echo "host all all all trust" >> /tmp/data/pg_hba.conf
exec postgres -D /tmp/data -c listen_addresses=* -c unix_socket_directories=/tmp -c fsync=off -c ssl=on`,
  ],
  { node: "node1", container: answers("pg_isready", "-h", "/tmp", "-U", "postgres") },
);

const redis = pod(
  "shop/cache",
  ["redis-server", "--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
  { node: "node1", container: answers("redis-cli", "ping") },
);

// HTTP/1.1 with WebSocket upgrade on 8080, HTTP/2 without TLS on 8081, both by ALPN over TLS on 8443. Bodies come back by their hash.
const webProgram = `
const http = require("node:http"), h2 = require("node:http2"), crypto = require("node:crypto"), fs = require("node:fs");
const answer = (q, r) => { const h = crypto.createHash("sha256"); let n = 0; q.on("data", (b) => { n += b.length; h.update(b); });
  q.on("end", () => { if (q.url.startsWith("/large")) return r.end(Buffer.alloc(5e6, "fairlead ")); r.end(q.httpVersion + " got " + n + " " + h.digest("hex") + "\\n"); }); };
const server = http.createServer(answer);
server.on("upgrade", (q, s) => {
  const accept = crypto.createHash("sha1").update(q.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  s.write("HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + "\\r\\n\\r\\n");
  s.on("data", (f) => { if ((f[0] & 15) === 8) return s.end(Buffer.from([0x88, 0])); const n = f[1] & 127, m = f.subarray(2, 6), p = Buffer.from(f.subarray(6, 6 + n)); for (let i = 0; i < n; i++) p[i] ^= m[i % 4]; s.write(Buffer.concat([Buffer.from([0x81, n]), p])); });
  s.on("error", () => {});
});
server.listen(8080, "::");
h2.createServer(answer).listen(8081, "::");
const tls = { key: fs.readFileSync("/tmp/key.pem"), cert: fs.readFileSync("/tmp/cert.pem") };
h2.createSecureServer({ ...tls, allowHTTP1: true }, answer).listen(8443, "::");`;
const web = pod(
  "shop/web",
  [
    "sh",
    "-ec",
    `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /tmp/key.pem -out /tmp/cert.pem -days 2 -subj /CN=web 2>/dev/null
exec "$0" -e "$1"`,
    process.execPath,
    webProgram,
  ],
  { node: "node1", container: readyOn(8443) },
);

const iperf = pod("shop/perf", ["iperf3", "-s", "-p", "5201"], { node: "node1", container: answers("true") });

// Root may log in with one key, which the pod makes; nothing of the machine's own configuration is read.
const ssh = pod(
  "shop/ssh",
  [
    "sh",
    "-ec",
    `mkdir -p /run/sshd; umask 077; ssh-keygen -q -t ed25519 -N "" -f /tmp/host; ssh-keygen -q -t ed25519 -N "" -f /tmp/user
exec /usr/sbin/sshd -D -e -f /dev/null -p 2222 -h /tmp/host -o AuthorizedKeysFile=/tmp/user.pub -o StrictModes=no -o PidFile=none -o PermitRootLogin=yes -o UsePAM=no`,
  ],
  { node: "node1", container: readyOn(2222) },
);

/** Speaks first, as MySQL does: greeting of protocol 10, then a login, then OK with the name given back. */
const greeterProgram = `
const packet = (seq, body) => Buffer.concat([Buffer.from([body.length & 255, body.length >> 8, 0, seq]), body]);
require("node:net").createServer({ noDelay: true }, (s) => {
  s.on("error", () => {});
  s.write(packet(0, Buffer.concat([Buffer.from([10]), Buffer.from("8.0.0-fairlead\\0"), Buffer.alloc(40)])));
  s.on("data", (b) => s.end(packet(2, Buffer.concat([Buffer.from([0]), b.subarray(4)]))));
}).listen(3306, "::");`;
const greeterPod = (path: string): unknown =>
  pod(path, [process.execPath, "-e", greeterProgram], { node: "node1", container: readyOn(3306) });

/** A name with addresses of both families behind which only IPv4 is served. */
const four = pod(
  "shop/four",
  [process.execPath, "-e", 'require("node:http").createServer((q, r) => r.end("four")).listen(8082, "0.0.0.0");'],
  { node: "node1", container: readyOn(8082) },
);

/** Everything that is visited, with clients on both nodes; `plain` is the same greeter and clients outside the mesh. */
export const programPods: readonly unknown[] = [
  namespace("shop"),
  namespace("plain", false),
  peerAuthentication("shop/strict", "STRICT"),
  ...["shop", "plain"].flatMap((ns) => [
    clientPod(`${ns}/near`, { node: "node1" }),
    clientPod(`${ns}/far`, { node: "node2" }),
    greeterPod(`${ns}/greeter`),
    service(`${ns}/greeter`, "greeter", { 3306: 3306 }, dual),
  ]),
  postgres,
  service("shop/db", "db", { 5432: 5432 }, dual),
  redis,
  service("shop/cache", "cache", { 6379: 6379 }, dual),
  web,
  service("shop/web", "web", { 8080: 8080, 8081: 8081, 8443: 8443 }, dual),
  iperf,
  service("shop/perf", "perf", { 5201: 5201 }, dual),
  ssh,
  service("shop/ssh", "ssh", { 2222: 2222 }, dual),
  // Nothing listens there: a host that a client of several has to leave.
  service("shop/dead", "cache", { 5432: 5432 }, dual),
  four,
  service("shop/four", "four", { 8082: 8082 }, dual),
];

export const programServers: readonly string[] = ["db", "cache", "web", "perf", "ssh", "greeter", "four"].map(
  (s) => `shop/${s}`,
);
