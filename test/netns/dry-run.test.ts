// Policies in dry run between real nodes: nothing is refused, and what would be is counted, logged, explained and told by status.
import assert from "node:assert/strict";
import { test } from "node:test";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, peerAuthentication, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { call } from "../lab/unix-http.ts";

const page = `require("http").createServer((q, s) => s.end("served")).listen(8080, "::")`;
const tcpPort = { ports: [{ name: "tcp", port: 81, targetPort: 8080, appProtocol: "tcp" }] };
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("outside", false),
    nodePod("shop/web", page, { node: "node1" }),
    nodePod("shop/raw", page, { node: "node1" }),
    clientPod("shop/client", { node: "node2" }),
    clientPod("outside/stranger", { node: "node2" }),
    service("shop/web", "web", {}, httpPort),
    service("shop/raw", "raw", {}, tcpPort),
  ),
};
const strict = manifest(peerAuthentication("shop/trial", "STRICT", {}, { "istio.io/dry-run": "true" }));

/** Over IPv4 alone: where a machine is slow, curl would begin a second connection beside the first. */
const get = async (lab: TestLab, from: string, host: string): Promise<string> =>
  (await lab.run(from, ["curl", "-4", "-s", "-m", "10", "-w", " %{http_code}", `http://${host}/`])).stdout;
/** How many connections the policy would have refused. */
async function wouldDeny(lab: TestLab): Promise<number> {
  const reply = await call(lab.node("node1").adminSocket, "/metrics");
  assert.ok(reply.ok);
  const found = /^fairlead_policy_notes_total\{kind="would_deny",policy="shop\/trial"\} (\d+)/m.exec(reply.value.text);
  return Number(found?.[1] ?? 0);
}

test("[SEC-10] a STRICT PeerAuthentication in dry run lets plaintext in, and counts each connection that it would refuse", {
  skip: skipLab,
  timeout: 400_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["shop/web", "shop/raw"]) await lab.ready(name);
    assert.equal(await get(lab, "outside/stranger", "web.shop"), "served 200");
    assert.equal(await wouldDeny(lab), 0);
    lab.write("trial.yaml", strict);
    const { adminSocket } = lab.node("node1");
    const raw = (await lab.pod("shop/raw")).ips.find((ip) => !ip.includes(":"));
    const explain = async (tunnel: string): Promise<string> => {
      const asked = new URLSearchParams({ source: "10.9.9.9", destination: `${raw}:8080`, tunnel });
      return JSON.stringify(await call(adminSocket, `/v1/explain-inbound?${asked}`)).replaceAll("\\", "");
    };

    await t.test("explain shows the mode that it would set, and what it would refuse", async () => {
      const plain = await waitFor("the policy", async () => {
        const told = await explain("plain");
        return told.includes("shop/trial") ? told : undefined;
      });
      assert.match(plain, /"verdict":"allow"/);
      assert.match(plain, /"notes":\[\{"kind":"would_deny","policy":"shop\/trial"\}\]/);
      assert.match(plain, /"dryRun":\[\{"mode":"strict","policy":"shop\/trial"\}\]/);
      assert.match(await explain("fairlead/1"), /"notes":\[\]/);
    });

    await t.test("connections as TCP and as HTTP are counted, one by one, and those of the mesh are not", async () => {
      const { ips } = await lab.pod("outside/stranger");
      const sources = ips.map((ip) => `"src.addr":"${ip.includes(":") ? `[${ip}]` : ip}:`);
      let made = 1;
      const ask = async (host: string): Promise<void> => {
        assert.equal(await get(lab, "outside/stranger", host), "served 200");
        made++;
      };
      /** Its connections, once all have ended and are told. */
      const told = (): Promise<readonly string[]> =>
        waitFor("the records", async () => {
          const records = (await lab.records("node1")).map((record) => JSON.stringify(record));
          const own = records.filter((record) => sources.some((source) => record.includes(source)));
          return own.length >= made ? own : undefined;
        });
      const isNoted = (record: string): boolean => record.includes('"would_deny"');
      // Until then answers from before the policy may still be used.
      for (const host of ["raw.shop:81", "web.shop"])
        await waitFor(`the policy, in answers about ${host}`, async () => {
          const before = (await told()).filter(isNoted).length;
          await ask(host);
          return (await told()).filter(isNoted).length > before;
        });
      const before = await wouldDeny(lab);
      assert.equal((await told()).filter(isNoted).length, before);
      for (const host of ["raw.shop:81", "raw.shop:81", "web.shop"]) await ask(host);
      for (const host of ["raw:81", "web"]) assert.equal(await get(lab, "shop/client", host), "served 200");
      assert.equal((await told()).filter(isNoted).length, before + 3);
      assert.equal(await wouldDeny(lab), before + 3);
    });

    await t.test("status says that it is in dry run", async () => {
      const told = JSON.stringify(await lab.askController("/v1/status"));
      assert.match(told, /DryRun/);
    });
  });
});
