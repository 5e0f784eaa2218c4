// How Services lead their clients, with real programs on two nodes that are two zones: session affinity, node-local addresses, nearness,
// endpoints before they are ready; connections (TCP) and requests (HTTP) alike, and what `explain` says of it.
import assert from "node:assert/strict";
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const zones = { node1: "a", node2: "b" } as const;
const on = (node: keyof typeof zones, app: string) => ({
  node,
  labels: { app, "topology.kubernetes.io/zone": zones[node] },
});
const says = (name: string): string =>
  `require("node:http").createServer((_, s) => s.end("${name}\\n")).listen(8080, "::")`;
const nodeOf = { "web-a": "node1", "web-b": "node2", "web-c": "node2" } as const;
type Server = keyof typeof nodeOf;
const serverOf = (name: Server): string => manifest(nodePod(`shop/${name}`, says(name), on(nodeOf[name], "web")));
const servers = Object.keys(nodeOf) as Server[];
const fileOf = (name: Server): string => `${name}.yaml`;
const gone = manifest(namespace("shop"));

const ways = {
  plain: {},
  sticky: { sessionAffinity: "ClientIP", sessionAffinityConfig: { clientIP: { timeoutSeconds: 600 } } },
  local: { internalTrafficPolicy: "Local" },
  close: { trafficDistribution: "PreferClose" },
} as const;
const both = <T>(of: (suffix: string, spec: object) => T): T[] => [of("", {}), of("-http", httpPort)];
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/near", on("node1", "near")),
    clientPod("shop/far", on("node2", "far")),
    ...Object.entries(ways).flatMap(([name, spec]) =>
      both((suffix, more) => service(`shop/${name}${suffix}`, "web", { 80: 8080 }, { ...spec, ...more })),
    ),
    nodePod("shop/slow", says("slow"), {
      ...on("node2", "slow"),
      container: { readinessProbe: { tcpSocket: { port: 9 }, periodSeconds: 1 } },
    }),
    service("shop/early", "slow", { 80: 8080 }, { publishNotReadyAddresses: true }),
    service("shop/late", "slow", { 80: 8080 }),
  ),
  ...Object.fromEntries(servers.map((name) => [fileOf(name), serverOf(name)])),
};

/** Who answered, each time on a connection of its own; "" for nobody. A client's addresses of both families are two clients: one is asked with. */
async function asked(lab: TestLab, from: string, host: string, times: number): Promise<readonly string[]> {
  const one = `curl -4 -s -m 20 http://${host}.shop/ || echo`;
  const { stdout } = await lab.run(`shop/${from}`, ["sh", "-c", `for i in $(seq ${times}); do ${one}; done`], 120_000);
  return stdout.trimEnd() === "" ? Array.from({ length: times }, () => "") : stdout.trimEnd().split("\n");
}
const setOf = async (...what: Parameters<typeof asked>): Promise<string> =>
  [...new Set(await asked(...what))].sort().join(" ");
const explained = (lab: TestLab, from: "near" | "far", host: string) =>
  lab.askAgent(from === "near" ? "node1" : "node2", `/v1/explain?source=shop/${from}&destination=shop/${host}:80`);

test(
  "[DIS-10] Services lead clients as Kubernetes says, connections and requests, and explain says why",
  labOptions,
  async (t) => {
    await withLab(manifests, {}, async (lab) => {
      for (const name of servers) await lab.ready(`shop/${name}`);
      for (const suffix of ["", "-http"])
        await t.test(`without any of it all endpoints serve everybody${suffix}`, async () => {
          for (const from of ["near", "far"])
            assert.equal(await setOf(lab, from, `plain${suffix}`, 60), "web-a web-b web-c");
        });

      for (const suffix of ["", "-http"])
        await t.test(`trafficDistribution: those of the client's zone${suffix}`, async () => {
          assert.equal(await setOf(lab, "near", `close${suffix}`, 30), "web-a");
          assert.equal(await setOf(lab, "far", `close${suffix}`, 30), "web-b web-c");
          const { leftOut } = await explained(lab, "far", `close${suffix}`);
          const [other] = leftOut as readonly { readonly workload: string; readonly why: string }[];
          assert.deepEqual([other?.workload, other?.why], ["shop/web-a", "other_zone"]);
        });

      for (const suffix of ["", "-http"])
        await t.test(`internalTrafficPolicy: those of the client's node${suffix}`, async () => {
          assert.equal(await setOf(lab, "near", `local${suffix}`, 20), "web-a");
          assert.equal(await setOf(lab, "far", `local${suffix}`, 40), "web-b web-c");
        });

      await t.test("publishNotReadyAddresses: reached before it is ready", async () => {
        assert.equal(await setOf(lab, "near", "early", 5), "slow");
        assert.equal(await setOf(lab, "near", "late", 2), "");
      });

      await t.test("session affinity: one endpoint, and another when that is gone", async () => {
        const own: Record<string, string> = {};
        for (const host of ["sticky", "sticky-http"])
          for (const from of ["near", "far"] as const) {
            const answered = await setOf(lab, from, host, 20);
            assert.match(answered, /^web-[abc]$/);
            own[`${from} ${host}`] = answered;
            const { affinity, endpoints } = await explained(lab, from, host);
            const { seconds, endpoint } = affinity as { readonly seconds: number; readonly endpoint: string };
            assert.equal(seconds, 600);
            const it = (endpoints as readonly { readonly workload: string; readonly address: { ip: string } }[]).find(
              ({ address: { ip } }) => endpoint === `${ip}:8080`,
            );
            assert.equal(it?.workload, `shop/${answered}`);
          }
        const lost = own["near sticky"] as Server;
        lab.write(fileOf(lost), gone);
        await waitFor("it to be gone", async () => !(await setOf(lab, "near", "sticky", 4)).includes(lost));
        const next = await setOf(lab, "near", "sticky", 20);
        assert.match(next, /^web-[abc]$/);
        lab.write(fileOf(lost), serverOf(lost));
        await lab.ready(`shop/${lost}`);
        await waitFor("it to be back", async () => (await setOf(lab, "near", "plain", 20)).includes(lost));
        assert.equal(await setOf(lab, "near", "sticky", 20), next, "it stays where it has gone");
        for (const [who, answered] of Object.entries(own)) {
          const [from = "", host = ""] = who.split(" ");
          if (answered !== lost) assert.equal(await setOf(lab, from, host, 10), answered, who);
        }
      });

      await t.test("no endpoint on the client's node: refused with the reason, never led to another node", async () => {
        lab.write(fileOf("web-a"), gone);
        await waitFor("the reason", async () => (await explained(lab, "near", "local")).reason === "no_local_endpoint");
        assert.equal(await setOf(lab, "near", "local", 4), "");
        const { leftOut } = await explained(lab, "near", "local");
        const why = (leftOut as readonly { readonly why: string }[]).map((one) => one.why);
        assert.deepEqual(new Set(why), new Set(["other_node"]));
        const record = await waitFor("its record", async () =>
          (await lab.records("node1")).find(({ reason }) => reason === "no_local_endpoint"),
        );
        assert.deepEqual([record?.["src.workload"], record?.["dst.service"]], ["shop/near", "shop/local"]);
        assert.equal(await setOf(lab, "near", "local-http", 4), "");
        assert.equal((await explained(lab, "near", "local-http")).reason, "no_local_endpoint");
        // Others are served, and the preference for the zone gives way where it has nobody.
        assert.equal(await setOf(lab, "far", "local", 20), "web-b web-c");
        assert.equal(await setOf(lab, "near", "close", 30), "web-b web-c");
      });
    });
  },
);
