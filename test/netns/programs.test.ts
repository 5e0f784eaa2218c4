// Unmodified programs through the mesh, on one node and across nodes: PostgreSQL with and without its own TLS, Redis, curl over HTTP/1.1 and HTTP/2, WebSocket, iperf3, long sessions.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import test from "node:test";
import { skipLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication, pod, service } from "../kit/manifests.ts";

const has = (...paths: readonly string[]): boolean => paths.every((p) => existsSync(p));
const options = { skip: skipLab, timeout: 300_000 };
const clients = [clientPod("shop/near", { node: "node1" }), clientPod("shop/far", { node: "node2" })];
const base = [namespace("shop"), peerAuthentication("shop/strict", "STRICT"), ...clients];
const from = ["shop/near", "shop/far"] as const;

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
  {
    node: "node1",
    container: {
      readinessProbe: { exec: { command: ["pg_isready", "-h", "/tmp", "-U", "postgres"] }, periodSeconds: 1 },
    },
  },
);

test("[INT-9] [SEC-2] psql works with and without PostgreSQL's own TLS, and a large result comes whole", {
  ...options,
  skip: skipLab || !has("/usr/bin/psql", "/usr/lib/postgresql"),
}, async () => {
  await withLab(
    { "all.yaml": manifest(...base, postgres, service("shop/db", "db", { 5432: 5432 })) },
    {},
    async (lab) => {
      for (const client of from) {
        for (const mode of ["disable", "require"]) {
          const done = await lab.run(client, [
            "psql",
            `host=db user=postgres sslmode=${mode}`,
            "-Atc",
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
            "-c",
            "select sum(length(repeat('x', 1000))) from generate_series(1, 10000)",
          ]);
          assert.equal(
            done.stdout,
            `${mode === "require" ? "t" : "f"}\n10000000\n`,
            `${client} sslmode=${mode}: ${done.stderr}`,
          );
          const bulk = await lab.run(client, [
            "sh",
            "-c",
            `psql "host=db user=postgres sslmode=${mode}" -Atc "select repeat(md5(n::text), 100) from generate_series(1, 3000) n" | md5sum`,
          ]);
          const local = await lab.run("shop/db", [
            "sh",
            "-c",
            `psql -h /tmp -U postgres -Atc "select repeat(md5(n::text), 100) from generate_series(1, 3000) n" | md5sum`,
          ]);
          assert.equal(bulk.stdout, local.stdout);
        }
      }
    },
  );
});

const redis = pod(
  "shop/cache",
  ["redis-server", "--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
  {
    node: "node1",
    container: { readinessProbe: { exec: { command: ["redis-cli", "ping"] }, periodSeconds: 1 } },
  },
);

test("[INT-9] Redis: commands, a pipeline of thousands, and publish and subscribe over a held connection", {
  ...options,
  skip: skipLab || !has("/usr/bin/redis-cli"),
}, async () => {
  await withLab(
    { "all.yaml": manifest(...base, redis, service("shop/cache", "cache", { 6379: 6379 })) },
    {},
    async (lab) => {
      for (const client of from) {
        const name = client.slice(5);
        const piped = await lab.run(client, [
          "sh",
          "-c",
          `for i in $(seq 1 5000); do echo "INCR ${name}"; done | redis-cli -h cache --pipe; redis-cli -h cache get ${name}`,
        ]);
        assert.match(piped.stdout, /errors: 0, replies: 5000\n5000\n$/);
        const heard = lab.run(client, ["sh", "-c", `timeout 4 redis-cli -h cache subscribe news-${name} | head -6`]);
        await new Promise((resolve) => setTimeout(resolve, 1500));
        await lab.run(client, ["redis-cli", "-h", "cache", "publish", `news-${name}`, "hello"]);
        assert.match((await heard).stdout, /message\nnews-\w+\nhello/);
      }
    },
  );
});

// A web server of Node's own: HTTP/1.1 with WebSocket upgrade, and HTTP/2 without TLS on another port.
const webProgram = `
const http = require("node:http"), h2 = require("node:http2"), crypto = require("node:crypto");
const server = http.createServer((q, r) => { let n = 0; q.on("data", (b) => { n += b.length; }); q.on("end", () => r.end("got " + n + " from " + q.socket.remoteAddress)); });
server.on("upgrade", (q, s) => {
  const accept = crypto.createHash("sha1").update(q.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  s.write("HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + "\\r\\n\\r\\n");
  s.on("data", (f) => { if ((f[0] & 15) === 8) return s.end(Buffer.from([0x88, 0])); const n = f[1] & 127, m = f.subarray(2, 6), p = Buffer.from(f.subarray(6, 6 + n)); for (let i = 0; i < n; i++) p[i] ^= m[i % 4]; s.write(Buffer.concat([Buffer.from([0x81, n]), p])); });
  s.on("error", () => {});
});
server.listen(8080, "::");
const two = h2.createServer(); two.on("stream", (s) => { s.respond({ ":status": 200 }); s.end("two"); }); two.listen(8081, "::");`;
const web = pod("shop/web", [process.execPath, "-e", webProgram], {
  node: "node1",
  container: { readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 } },
});

test(
  "[INT-7] [INT-9] curl over HTTP/1.1 with keep-alive and a large body, HTTP/2 with prior knowledge, and a WebSocket",
  options,
  async () => {
    const socket = `const w = new WebSocket("ws://web:8080/"); let n = 0;
w.onopen = () => w.send("m0"); w.onmessage = (e) => { if (e.data !== "m" + n) process.exit(3); if (++n === 200) w.close(); else w.send("m" + n); };
w.onerror = () => process.exit(4); w.onclose = () => { console.log("echoed " + n); process.exit(0); };`;
    await withLab(
      { "all.yaml": manifest(...base, web, service("shop/web", "web", { 8080: 8080, 8081: 8081 })) },
      {},
      async (lab) => {
        for (const client of from) {
          const upload = await lab.run(client, [
            "sh",
            "-c",
            "head -c 5000000 /dev/zero > /tmp/body; curl -sS -m 20 -T /tmp/body http://web:8080/ http://web:8080/again",
          ]);
          assert.match(upload.stdout, /^got 5000000 from/, upload.stderr);
          const two = await lab.run(client, [
            "curl",
            "-sS",
            "-m",
            "10",
            "--http2-prior-knowledge",
            "-w",
            " %{http_version}",
            "http://web:8081/",
          ]);
          assert.equal(two.stdout, "two 2", two.stderr);
          assert.equal((await lab.run(client, [process.execPath, "-e", socket], 20_000)).stdout, "echoed 200\n");
        }
      },
    );
  },
);

test("[INT-9] iperf3 both ways, several streams, IPv4 and IPv6", {
  ...options,
  skip: skipLab || !has("/usr/bin/iperf3"),
}, async () => {
  const server = pod("shop/perf", ["iperf3", "-s", "-p", "5201"], {
    node: "node1",
    container: { readinessProbe: { exec: { command: ["true"] } } },
  });
  await withLab({ "all.yaml": manifest(...base, server) }, {}, async (lab) => {
    for (const client of from) {
      for (const ip of (await lab.pod("shop/perf")).ips) {
        for (const way of [[], ["-R"]]) {
          const done = await lab.run(
            client,
            ["iperf3", "-c", ip, "-p", "5201", "-t", "1", "-P", "4", "-J", ...way],
            30_000,
          );
          const sum = JSON.parse(done.stdout) as { end?: { sum_received?: { bytes: number } }; error?: string };
          assert.ok(
            (sum.end?.sum_received?.bytes ?? 0) > 1_000_000,
            `${client} ${ip} ${way}: ${sum.error ?? done.stderr}`,
          );
        }
      }
    }
  });
});
