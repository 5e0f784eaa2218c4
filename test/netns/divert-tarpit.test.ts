// Tarpits and diverts of a ResiliencePolicy between real nodes: what is written acts, across namespaces only by a grant, and is told in explain, log,
// metrics and status.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { call } from "../lab/unix-http.ts";

const page = (name: string): string =>
  `require("http").createServer((q, s) => s.end("${name} " + q.headers.host + q.url)).listen(8080, "::")`;
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("security"),
    clientPod("shop/client", { node: "node1" }),
    nodePod("shop/web", page("web"), { node: "node2" }),
    service("shop/web", "web", {}, httpPort),
    nodePod("security/trap", page("trap"), { node: "node2" }),
    service("security/trap", "trap", {}, httpPort),
  ),
};
const holdMs = 700;
const policy = manifest({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: "web", namespace: "shop" },
  spec: {
    targetRefs: [{ kind: "Service", name: "web" }],
    tarpit: { headers: [{ name: "user-agent", type: "RegularExpression", value: "scraper/.*" }], hold: `${holdMs}ms` },
    divert: {
      headers: [{ name: "x-attack", value: "1" }],
      backendRef: { name: "trap", namespace: "security", port: 80 },
    },
  },
});
const grant = manifest({
  apiVersion: "gateway.networking.k8s.io/v1beta1",
  kind: "ReferenceGrant",
  metadata: { name: "trap", namespace: "security" },
  spec: {
    from: [{ group: "mesh.fairlead.dev", kind: "ResiliencePolicy", namespace: "shop" }],
    to: [{ group: "", kind: "Service", name: "trap" }],
  },
});
const attack = "x-attack: 1";
const scraper = "user-agent: scraper/2";

async function get(lab: TestLab, path: string, header: string): Promise<string> {
  const asked = ["curl", "-s", "-m", "20", "-H", header, "-w", " %{http_code} %{time_total}", `http://web${path}`];
  return (await lab.run("shop/client", asked)).stdout;
}

test("[TRF-8] a ResiliencePolicy holds some requests and leads others to another namespace's Service", {
  skip: skipLab,
  timeout: 400_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["shop/web", "security/trap"]) await lab.ready(name);
    const { adminSocket, accessLog } = lab.node("node1");
    assert.match(await get(lab, "/before", attack), /^web web\/before 200 /);

    await t.test(
      "what is marked is held as long as was said; without a grant nothing is diverted, and status says so",
      async () => {
        lab.write("policy.yaml", policy);
        await waitFor("the tarpit", async () => / 429 /.test(await get(lab, "/held", scraper)));
        const seconds = Number((await get(lab, "/held", scraper)).split(" ").at(-1));
        assert.ok(seconds >= holdMs / 1000 - 0.01, `${seconds} s`);
        assert.match(await get(lab, "/attack", attack), /^web web\/attack 200 /);
        await waitFor("the status", async () =>
          /RefNotPermitted.*spec\.divert\.backendRef\.namespace|spec\.divert\.backendRef\.namespace.*RefNotPermitted/s.test(
            JSON.stringify(await lab.askController("/v1/status")),
          ),
        );
      },
    );

    await t.test("with the grant what is marked goes to the other Service, what is not goes on as before", async () => {
      lab.write("grant.yaml", grant);
      await waitFor("the divert", async () => /^trap web\/attack 200 /.test(await get(lab, "/attack", attack)));
      assert.match(await get(lab, "/plain", "x-attack: 0"), /^web web\/plain 200 /);
    });

    await t.test("explain, the access log and metrics tell both", async () => {
      const explained = async (header: string): Promise<string> => {
        const asked = new URLSearchParams({ source: "shop/client", destination: "shop/web:80", path: "/x", header });
        return JSON.stringify(await call(adminSocket, `/v1/explain?${asked}`));
      };
      // The answer's own text is JSON too.
      const plain = (text: string): string => text.replaceAll("\\", "");
      assert.match(
        plain(await explained("x-attack:1")),
        /"divert":\{"service":"security\/trap","port":80,"percent":100\}/,
      );
      assert.match(
        plain(await explained("user-agent:scraper/9")),
        /"answer":\{"status":429,"reason":"tarpit","delayMs":700,"percent":100\}/,
      );
      assert.match(plain(await explained("x-attack:0")), /"divert":null/);
      const told = (path: string, reason: string) =>
        waitFor(`${path} as ${reason}`, () =>
          readFileSync(accessLog, "utf8")
            .split("\n")
            .filter((line) => line.includes(`"${path}"`))
            .map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
            .find((line) => line.reason === reason),
        );
      const held = await told("/held", "tarpit");
      assert.deepEqual([held.status, held.flags, held["dst.service"]], [429, "FI", "shop/web"]);
      const diverted = await told("/attack", "diverted");
      assert.deepEqual([diverted.status, diverted.flags, diverted["dst.service"]], [200, "-", "security/trap"]);
      await waitFor("both in metrics", async () => {
        const reply = await call(adminSocket, "/metrics");
        if (!reply.ok) return false;
        const lines = reply.value.text.split("\n").filter((line) => line.startsWith("istio_requests_total{"));
        return (
          lines.some((l) => l.includes('response_code="429"') && l.includes('response_flags="FI"')) &&
          lines.some((l) => l.includes('destination_service_name="trap"') && l.includes('response_code="200"'))
        );
      });
    });

    await t.test("the switch of faults ends both at once", async () => {
      lab.write("settings.yaml", settings(false));
      await waitFor("no tarpit", async () => /^web .* 200 /.test(await get(lab, "/free", scraper)));
      assert.match(await get(lab, "/free", attack), /^web web\/free 200 /);
    });
  });
});

const settings = (faultInjection: boolean): string =>
  manifest({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "MeshSettings",
    metadata: { name: "mesh" },
    spec: { faultInjection },
  });
