// Requests of HTTP/1.1 with long bodies by HBONE, to and from a peer that is not ours: whole both ways, and moved by native where they can be.
import assert from "node:assert/strict";
import test from "node:test";
import { pattern, sha256 } from "../hbone/settings.ts";
import { eventOf, PeerCertificates, startPeer } from "../kit/hbone.ts";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, peerAuthentication, service } from "../kit/manifests.ts";

const size = 16 * 2 ** 20;
/** Answers with as many bytes as were asked for, behind the length and the hash of what came. */
const program = `const { createHash } = require("crypto");
require("http").createServer((q, s) => {
  const hash = createHash("sha256"); let n = 0;
  q.on("data", (d) => { n += d.length; hash.update(d); }).on("end", () => {
    const body = Buffer.alloc(Number(q.headers["x-wants"] ?? 0), "x");
    s.writeHead(200, { "x-got": n + " " + hash.digest("hex"), "content-length": body.length }).end(body);
  });
}).listen(8080, "::", () => console.log("{}"));`;

const manifests = {
  "mesh.yaml": manifest(
    namespace("shop"),
    nodePod("shop/web", program, { node: "node1", labels: { app: "web" } }),
    clientPod("shop/near", { node: "node1" }),
    service("shop/web", "web", {}, httpPort),
    peerAuthentication("shop/strict", "STRICT"),
  ),
  "peers.yaml": manifest(
    namespace("hb", false),
    clientPod("hb/echo", { node: "node2", annotations: { "fairlead.dev/protocol": "hbone" } }),
    service("hb/echo", "echo", {}, httpPort),
  ),
};
const identity = "spiffe://cluster.local/ns/hb/sa/echo";
const joins = (lab: TestLab): Promise<number> =>
  lab.askAgent("node1", "/v1/counters").then((all) => Number(all.joins ?? 0));

test(
  "[INT-9] [IDN-4] [TRF-7] requests with 16 MiB both ways by HBONE, to a peer that is not ours and from it",
  labOptions,
  async (t) => {
    await withLab(manifests, {}, async (lab) => {
      const files = await new PeerCertificates(lab).make(identity);

      await t.test("a pod of the mesh asks a server behind the peer", async () => {
        const app = await lab.start("hb/echo", [process.execPath, "-e", program]);
        await app.next();
        const settings = { scenario: "forward", host: "::", port: 15008, to: 8080, ...files };
        const server = await startPeer(lab, "hb/echo", "server", settings);
        await eventOf(server, "listening");
        const before = await joins(lab);
        const ask = `const body = Buffer.alloc(${size}, "y");
const q = require("http").request("http://echo.hb/", { method: "POST", headers: { "content-length": ${size}, "x-wants": ${size} } }, (s) => {
  const hash = require("crypto").createHash("sha256"); let n = 0;
  s.on("data", (d) => { n += d.length; hash.update(d); }).on("end", () => console.log(s.statusCode, s.headers["x-got"], n, hash.digest("hex")));
});
q.end(body);`;
        const { stdout, stderr } = await lab.run("shop/near", [process.execPath, "-e", ask]);
        const sent = sha256(Buffer.alloc(size, "y"));
        assert.equal(stdout.trim(), `200 ${size} ${sent} ${size} ${sha256(Buffer.alloc(size, "x"))}`, stderr);
        assert.ok((await joins(lab)) > before, "native moved one of them at least");
        server.child.kill("SIGKILL");
        app.child.kill("SIGKILL");
      });

      await t.test("the peer asks a pod of the mesh, whose answer names what it got", async () => {
        const [host = ""] = (await lab.pod("shop/web")).ips;
        const before = await joins(lab);
        const head = `POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: ${size}\r\nx-wants: ${size}\r\n\r\n`;
        const authority = `${host.includes(":") ? `[${host}]` : host}:8080`;
        const settings = { scenario: "http", host, port: 15008, authority, head, bytes: size, ...files };
        const client = await startPeer(lab, "hb/echo", "client", settings);
        const { status, head: answered, bytes, hash } = await eventOf(client, "done", "error");
        assert.deepEqual([status, bytes, hash], [200, size, sha256(Buffer.alloc(size, "x"))]);
        assert.match(String(answered), new RegExp(`^HTTP/1.1 200 [^]*x-got: ${size} ${sha256(pattern(1, size))}`));
        assert.ok((await joins(lab)) > before, "native moved one of them at least");
        client.child.kill("SIGKILL");
      });
    });
  },
);
