// Agents replaced, killed and frozen under load: what is lost, and what comes back by itself. FAIRLEAD_TEST_RESTARTS=20 and _RATE=1000 are the full form.
import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication, serverPod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { Capture, flowsWith } from "../lab/capture.ts";
import { tail } from "../lab/files.ts";

const restarts = Number(process.env.FAIRLEAD_TEST_RESTARTS ?? 4);
const rate = Number(process.env.FAIRLEAD_TEST_RATE ?? 200);
const idleCount = Number(process.env.FAIRLEAD_TEST_IDLE ?? 100);
const pods = [
  serverPod("shop/web", { node: "node1" }),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  service("shop/web", "web", { 7000: 7000, 7002: 7002 }),
];
const files = {
  "shop.yaml": manifest(namespace("shop"), ...pods),
  "strict.yaml": manifest(peerAuthentication("shop/strict", "STRICT")),
};
const target = ["--host", "web", "--port", "7000"];

/** Nothing failed, or the message says why, as the agents tell it. */
async function nothingFailed(lab: TestLab, report: Readonly<Record<string, unknown>>): Promise<void> {
  if (report.failed === 0) return;
  const told = { report } as Record<string, unknown>;
  for (const node of ["node1", "node2"])
    told[node] = {
      records: (await lab.records(node)).filter((r) => r.reason !== "finished").slice(0, 3),
      log: tail(lab.node(node).agentLog, 12),
    };
  assert.fail(JSON.stringify(told, null, 1));
}

async function underRestarts(lab: TestLab, from: string, restart: (i: number) => Promise<unknown>): Promise<void> {
  const idle = await lab.startTraffic(from, ["idle", ...target, "--count", String(idleCount)]);
  assert.deepEqual(await idle.next(), { open: idleCount, reasons: {}, refused: 0 });
  const load = await lab.startTraffic(from, ["load", ...target, "--rate", String(rate)]);
  await load.next();
  for (let i = 0; i < restarts; i++) {
    await sleep(500);
    await restart(i);
    const proved = await idle.ask("check");
    assert.deepEqual([proved.ok, proved.reasons], [idleCount, {}], `idle connections after restart ${i + 1}`);
  }
  const report = await load.ask("stop");
  assert.equal(report.failed, 0, JSON.stringify(report));
  assert.equal((report.server as { broken: number }).broken, 0, JSON.stringify(report.server));
  assert.equal((await idle.ask("check")).ok, idleCount);
  await Promise.all([idle.end("quit"), load.end("")]);
}

test(
  "[DP-19] [OPS-2] agents of both nodes replaced under load: no connection refused, none lost, idle ones prove themselves (across nodes)",
  labOptions,
  async () => {
    await withLab(files, {}, async (lab) => {
      const capture = await Capture.start(
        lab.paths.routerNetns,
        "node1",
        join(lab.paths.dir, "restart.pcap"),
        "tcp port 7002",
      );
      const chat = await lab.start("shop/far", [
        "python3",
        "-c",
        "import socket,time\nwhile True:\n  s=socket.create_connection(('web',7002)); s.sendall(b'MARKER-restart'); s.shutdown(1); s.makefile().read(); s.close(); time.sleep(0.02)",
      ]);
      await underRestarts(lab, "shop/far", (i) => lab.agent(i % 2 === 0 ? "node1" : "node2", "replace"));
      chat.child.kill("SIGKILL");
      const packets = await capture.stop();
      assert.ok(packets.length > 100);
      assert.deepEqual(flowsWith(packets, "MARKER-restart"), [], "no plaintext between nodes throughout");
    });
  },
);

test("[DP-19] [OPS-2] the agent replaced under load on the direct lane", labOptions, async () => {
  await withLab(files, {}, async (lab) => {
    await underRestarts(lab, "shop/near", () => lab.agent("node1", "replace"));
  });
});

test(
  "[DP-18] [DP-19] a successor that ends before it serves: the agent before has its pods again, the direct lane too",
  labOptions,
  async () => {
    await withLab(files, {}, async (lab) => {
      const direct = async (): Promise<number> => Number((await lab.askAgent("node1", "/v1/counters")).out_direct);
      const idle = await lab.startTraffic("shop/near", ["idle", ...target, "--count", "20"]);
      assert.equal((await idle.next()).open, 20);
      // It has enrolled the pods and written the maps when it finds that it cannot listen.
      const broken = { FAIRLEAD_ADMIN_SOCKET: "/proc/agent.sock" };
      await assert.rejects(lab.agent("node1", "replace", broken), /admin socket|EACCES|ENOENT/);
      for (const from of ["shop/near", "shop/far"])
        await waitFor(`${from} reaches web`, async () => {
          const report = await lab.traffic(from, ["short", ...target, "--count", "20", "--timeout", "5000"]);
          return report.failed === 0;
        });
      const before = await direct();
      await nothingFailed(lab, await lab.traffic("shop/near", ["short", ...target, "--count", "50"]));
      assert.ok((await direct()) >= before + 50);
      assert.equal((await idle.ask("check")).ok, 20);
      await idle.end("quit");
      await lab.agent("node1", "replace", {});
      await nothingFailed(lab, await lab.traffic("shop/far", ["short", ...target, "--count", "50"]));
    });
  },
);

test(
  "[INT-14] SIGKILL of an agent in a strict namespace: connects are refused while it is away, and pass again once it is back; nothing goes in plaintext",
  labOptions,
  async () => {
    await withLab(files, {}, async (lab) => {
      const capture = await Capture.start(lab.paths.routerNetns, "node2", join(lab.paths.dir, "kill.pcap"));
      await lab.agent("node2", "kill");
      const away = await lab.traffic("shop/far", ["short", ...target, "--count", "20", "--timeout", "30000"]);
      assert.equal(away.ok, 0, `fail closed: ${JSON.stringify(away)}`);
      const leak = await lab.run("shop/far", [
        "python3",
        "-c",
        "import socket;s=socket.create_connection(('web',7002),30);s.sendall(b'MARKER-leak');print(s.recv(20))",
      ]);
      assert.notEqual(leak.code, 0);
      await lab.agent("node2", "start");
      const back = await lab.traffic("shop/far", ["short", ...target, "--count", "50", "--timeout", "30000"]);
      await nothingFailed(lab, back);
      assert.deepEqual(flowsWith(await capture.stop(), "MARKER-leak"), []);
    });
  },
);

test(
  "[INT-14] SIGKILL of an agent in a permissive namespace: pods go on without it, and are in the mesh again once it is back",
  labOptions,
  async () => {
    await withLab(
      {
        "shop.yaml": manifest(
          namespace("shop"),
          namespace("outside", false),
          serverPod("outside/legacy", { node: "node1" }),
          service("outside/legacy", "legacy", { 7000: 7000 }),
          ...pods,
        ),
      },
      {},
      async (lab) => {
        await lab.agent("node2", "kill");
        const plain = ["--host", "legacy.outside", "--port", "7000"];
        const away = await lab.traffic("shop/far", ["short", ...plain, "--count", "20", "--timeout", "30000"]);
        assert.equal(away.failed, 0, `fail open toward what is not in the mesh: ${JSON.stringify(away)}`);
        await lab.agent("node2", "start");
        const back = await lab.traffic("shop/far", ["short", ...target, "--count", "50", "--timeout", "30000"]);
        await nothingFailed(lab, back);
        await waitFor("records of the tunnel lane", async () =>
          (await lab.records("node2")).some((r) => r.lane === "tunnel"),
        );
      },
    );
  },
);

test(
  "[INT-14] a frozen agent counts as dead after its heartbeat is missed, and serves again when it thaws",
  labOptions,
  async () => {
    await withLab(files, {}, async (lab) => {
      await lab.agent("node2", "freeze");
      await waitFor("connects refused at once, not after the 20 s that the client gives them", async () => {
        const started = Date.now();
        const done = await lab.traffic("shop/far", ["short", ...target, "--count", "1", "--timeout", "20000"]);
        return done.ok === 0 && Date.now() - started < 10_000;
      });
      await lab.agent("node2", "thaw");
      await waitFor("serves again", async () =>
        ((r) => r.ok === 1)(await lab.traffic("shop/far", ["short", ...target, "--count", "1", "--timeout", "10000"])),
      );
    });
  },
);
