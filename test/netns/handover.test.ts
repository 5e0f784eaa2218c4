// The place where the HTTP lane plugs in, whole: native accepts in the pod, hands the descriptor to a data thread, which carries the bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { skipLab, type TestLab, waitFor, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, pod, serverPod, service } from "../kit/manifests.ts";

const page = `require("http").createServer((q, s) => s.end("from " + q.url)).listen(8080, "::")`;

const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("outside", false),
    clientPod("shop/client", { node: "node1" }),
    pod("outside/web", [process.execPath, "-e", page], {
      node: "node2",
      container: { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } },
    }),
    service(
      "outside/web",
      "web",
      {},
      {
        ports: [{ name: "http", port: 80, targetPort: 8080, appProtocol: "http" }],
        ipFamilyPolicy: "RequireDualStack",
      },
    ),
  ),
};

test("[INT-15] a connection that a data thread takes arrives there as a descriptor, unread, and is carried whole", async () => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    await lab.ready("outside/web");
    for (let i = 0; i < 20; i++) {
      const got = await lab.run("shop/client", ["curl", "-sS", "-m", "5", `http://web.outside/page/${i}`]);
      assert.equal(got.stdout, `from /page/${i}`, got.stderr);
    }
    const handed = await waitFor("records of handed connections", async () => {
      const { records } = (await lab.askAgent("node1", "/v1/records?limit=200")) as { records: { reason: string }[] };
      const found = records.filter((r) => r.reason === "handed_over");
      return found.length >= 20 ? found : undefined;
    });
    assert.equal(handed.length, 20);
  });
});

// Resets when told to, and tells how the last connection that waited for its client ended.
const resetter = `import socket,struct,threading,time
last=["none"]
def serve(c):
  kind=c.recv(1)
  if kind==b"r":
    c.sendall(b"some"); time.sleep(.2)
    c.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack("ii",1,0)); c.close()
  elif kind==b"w":
    try: last[0]="end" if c.recv(1)==b"" else "data"
    except OSError as e: last[0]=type(e).__name__
  else: c.sendall(last[0].encode()); c.close()
s=socket.create_server(("::",7100),family=socket.AF_INET6,dualstack_ipv6=True)
while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()`;
const resets = `import socket,struct,time
def ask(kind):
  c=socket.create_connection(("resetter",7100),5); c.settimeout(5); c.sendall(kind); return c
c=ask(b"r"); c.recv(4,socket.MSG_WAITALL)
try: print("end" if c.recv(1)==b"" else "data")
except OSError as e: print(type(e).__name__)
c=ask(b"w"); time.sleep(.3); c.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack("ii",1,0)); c.close(); time.sleep(.5)
print(ask(b"q").makefile("rb").read().decode())
c=ask(b"w"); c.close(); time.sleep(.5)
print(ask(b"q").makefile("rb").read().decode())`;

const http = (port: number): Record<string, unknown> => ({
  ports: [{ name: "http", port, targetPort: port, appProtocol: "http" }],
});
const meshed = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    clientPod("shop/beside", { node: "node2" }),
    serverPod("shop/web", { node: "node2" }),
    service("shop/web", "web", {}, http(7000)),
    pod("shop/resetter", ["python3", "-c", resetter], {
      node: "node2",
      container: { readinessProbe: { tcpSocket: { port: 7100 }, periodSeconds: 1 } },
    }),
    service("shop/resetter", "resetter", {}, http(7100)),
  ),
};

interface Row {
  readonly direction: string;
  readonly lane: string;
  readonly reason: string;
  readonly sent: number;
  readonly received: number;
}
const rows = async (lab: TestLab, node: string): Promise<readonly Row[]> =>
  (await lab.askAgent(node, "/v1/records?limit=1000")).records as Row[];

test("[INT-9] [INT-15] across nodes through the data threads of both, by tunnel: no byte lost in any order of ends, resets stay resets", {
  skip: skipLab,
  timeout: 200_000,
}, async (t) => {
  await withLab(meshed, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["web", "resetter"]) await lab.ready(`shop/${name}`);

    await t.test("bytes are checked by hash at both ends, from the other node and from the same one", async () => {
      for (const from of ["shop/client", "shop/beside"]) {
        const orders = ["request", "client-fin", "server-fin", "both"].join();
        const args = ["short", "--host", "web", "--port", "7000", "--count", "120", "--concurrency", "8"];
        const done = await lab.traffic(from, [...args, "--orders", orders, "--timeout", "10000"]);
        const { broken } = done.server as { broken: number };
        assert.deepEqual([done.ok, done.failed, broken], [120, 0, 0], `${from}: ${JSON.stringify(done)}`);
      }
      const out = await waitFor("records of the streams", async () => {
        const all = (await rows(lab, "node1")).filter((r) => r.direction === "outbound" && r.lane === "http");
        return all.filter((r) => r.reason === "finished").length >= 120 ? all : undefined;
      });
      assert.ok(out.filter((r) => r.reason === "handed_over").length >= 120);
      const arrived = (await rows(lab, "node2")).filter((r) => r.direction === "inbound" && r.lane === "http");
      assert.ok(arrived.length >= 120 && arrived.every((r) => r.reason === "finished"), JSON.stringify(arrived[0]));
      const bytes = (all: readonly Row[]): number => all.reduce((sum, r) => sum + r.sent + r.received, 0);
      assert.equal(bytes(out.filter((r) => r.reason === "finished")), bytes(arrived));
    });

    await t.test("a reset of either side reaches the other as one, and an end as an end", async () => {
      for (const from of ["shop/client", "shop/beside"]) {
        const got = await lab.run(from, ["python3", "-c", resets]);
        const said = got.stdout.trim().split("\n");
        assert.deepEqual(said, ["ConnectionResetError", "ConnectionResetError", "end"], `${from}: ${got.stderr}`);
      }
    });
  });
});
