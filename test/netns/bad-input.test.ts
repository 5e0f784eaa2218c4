// A folder with every kind of mistake beside good objects, as somebody new would meet it: what the command line says of each, that
// everything else goes on, and that a mended object is in force at once. In the same lab: hostPort.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  manifest,
  namespace,
  peerAuthentication,
  pod,
  serverPod,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

interface Status {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly file: string;
  readonly line: number;
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly field: string;
  readonly fix: string;
}

const files = {
  "good.yaml": manifest(
    namespace("shop"),
    serverPod("shop/web", {
      node: "node1",
      container: { ports: [{ containerPort: 7000, hostPort: 8081 }] },
    }),
    service("shop/web", "web", { 7000: 7000 }, { clusterIP: "10.96.7.7" }),
    clientPod("shop/client", { node: "node2" }),
  ),
  "torn.yaml": "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: torn\nspec:\n  ports: [{port: 80}]\n",
  "kind.yaml":
    "apiVersion: v1\nkind: Sevice\nmetadata: {namespace: shop, name: typo}\n---\napiVersion: v9\nkind: Frob\nmetadata: {namespace: shop, name: frob}\n",
  "field.yaml":
    "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: field}\nspec:\n  slector: {app: web}\n  ports: [{port: 80}]\n",
  "policy.yaml": manifest(
    authorization("shop/nobody", { selector: { matchLabels: { app: "wbe" } }, action: "DENY", rules: [{}] }),
    peerAuthentication("shop/nobody", "STRICT", { selector: { matchLabels: { app: "wbe" } } }),
  ),
  "empty.yaml": manifest(service("shop/empty", "nothing", { 80: 8080 })),
  "twin.yaml": manifest(service("shop/twin", "web", { 7000: 7002, 7001: 7002 }, { clusterIP: "10.96.7.7" })),
  "port.yaml": manifest(service("shop/port", "web", { 70000: 7000 })),
  "lost.yaml": manifest(service("gone/lost", "web", { 80: 7000 }), clientPod("gone/lost")),
  "dies.yaml": manifest(
    pod("shop/dies", ["sh", "-c", "echo no such file >&2; exit 3"]),
    pod("shop/fails", ["sh", "-c", "exit 4"], { spec: { restartPolicy: "Never" } }),
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "image", namespace: "shop" },
      spec: { containers: [{ name: "c", image: "nginx" }] },
    },
  ),
};

/** What stands in the line: place, object, field, message and fix. */
const expected: readonly (readonly [string, Partial<Record<keyof Status, unknown>>, RegExp])[] = [
  [
    "a manifest that does not parse",
    { file: "torn.yaml", line: 4, accepted: false, reason: "Unreadable" },
    /^torn\.yaml:4: cannot be parsed: .*; correct the YAML or JSON at this line$/m,
  ],
  [
    "an unknown kind, nearly right",
    { kind: "Sevice", name: "typo", accepted: false, reason: "Invalid", field: "kind" },
    /^kind\.yaml:2: Sevice shop\/typo: kind: "Sevice" is not a known kind; did you mean "Service"\?$/m,
  ],
  [
    "an unknown kind",
    { kind: "Frob", name: "frob", accepted: false, field: "kind" },
    /^kind\.yaml:6: Frob shop\/frob: kind: "Frob" is not a known kind; remove the object, or use one of Namespace, /m,
  ],
  [
    "an unknown field",
    { kind: "Service", name: "field", accepted: false, field: "spec.slector" },
    /^field\.yaml:5: Service shop\/field: spec\.slector: is not a field of this object; did you mean "selector"\?$/m,
  ],
  [
    "a policy that selects nothing",
    { kind: "AuthorizationPolicy", name: "nobody", accepted: true, reason: "SelectsNothing", field: "spec.selector" },
    /^warning: policy\.yaml:1: AuthorizationPolicy shop\/nobody: spec\.selector: no pod of the namespace "shop" has the labels app=wbe; correct the selector/m,
  ],
  [
    "a PeerAuthentication that selects nothing",
    { kind: "PeerAuthentication", name: "nobody", accepted: true, reason: "SelectsNothing" },
    /^warning: policy\.yaml:\d+: PeerAuthentication shop\/nobody: spec\.selector: no pod .*; correct/m,
  ],
  [
    "a service with no endpoints",
    { kind: "Service", name: "empty", accepted: true, reason: "NoEndpoints" },
    /^warning: empty\.yaml:1: Service shop\/empty: spec\.selector: no running pod .* app=nothing; correct the selector or start such a pod$/m,
  ],
  [
    "two services on one address",
    { kind: "Service", name: "twin", accepted: false, reason: "AddressTaken", field: "spec.clusterIP" },
    /^twin\.yaml:1: Service shop\/twin: spec\.clusterIP: the address 10\.96\.7\.7 belongs to Service shop\/web \(good\.yaml:\d+\); give one of the two another address/m,
  ],
  [
    "a port out of range",
    { kind: "Service", name: "port", accepted: false, field: "spec.ports[0].port" },
    /^port\.yaml:\d+: Service shop\/port: spec\.ports\[0\]\.port: is 70000, not a port; use a number from 1 to 65535$/m,
  ],
  [
    "a namespace that is missing",
    { kind: "Service", namespace: "gone", accepted: false, reason: "NamespaceMissing", field: "metadata.namespace" },
    /^lost\.yaml:1: Service gone\/lost: metadata\.namespace: the namespace "gone" is missing; add a Namespace named "gone" or correct the name$/m,
  ],
  [
    "a pod in a namespace that is missing",
    { kind: "Pod", namespace: "gone", accepted: false, reason: "NamespaceMissing" },
    /^lost\.yaml:\d+: Pod gone\/lost: metadata\.namespace: the namespace "gone" is missing; add/m,
  ],
  [
    "a pod whose command dies",
    {
      kind: "Pod",
      name: "dies",
      accepted: true,
      reason: "NotReady",
      field: "spec.containers[0].command",
      file: "dies.yaml",
    },
    /^warning: dies\.yaml:1: Pod shop\/dies: spec\.containers\[0\]\.command: container "main" ended with exit code 3: no such file; correct the command/m,
  ],
  [
    "a pod whose command dies once and for all",
    { kind: "Pod", name: "fails", accepted: true, reason: "NotReady", file: "dies.yaml" },
    /^warning: dies\.yaml:\d+: Pod shop\/fails: spec\.containers\[0\]\.command: container "main" ended with exit code 4; correct/m,
  ],
];

function fairlead(
  lab: TestLab,
  ...words: readonly string[]
): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(join(import.meta.dirname, "../../bin/fairlead"), words, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, FAIRLEAD_LAB: lab.name },
  });
  const done = { code: null as number | null, out: "", err: "" };
  child.stdout.on("data", (b) => (done.out += b));
  child.stderr.on("data", (b) => (done.err += b));
  return new Promise((resolve) => child.on("close", (code) => resolve({ ...done, code })));
}

test(
  "[DIS-9] [DP-6] every mistake in a folder is named with file, object, field and fix, has a status, and stops nothing else; hostPort",
  labOptions,
  async () => {
    await withLab(files, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/web");
      const reach = async (host: string, port: number) => {
        const args = ["short", "--host", host, "--port", String(port), "--count", "5", "--concurrency", "1"];
        return (await lab.traffic("shop/client", args)).failed;
      };
      assert.equal(await reach("10.96.7.7", 7000), 0, "the service that was first keeps its address");
      // The node's own address and a port of the pod's choice: by tunnel to the pod, with its identity.
      assert.equal(await reach("10.250.1.2", 8081), 0);
      await waitFor("the record at the server's node", async () => {
        return (await lab.records("node1")).some(
          (r) => r["dst.workload"] === "shop/web" && String(r["src.identity"]).endsWith("/ns/shop/sa/client"),
        );
      });

      const objects = async (): Promise<readonly Status[]> =>
        (await lab.askController("/v1/status")).objects as readonly Status[];
      await waitFor(
        "every status",
        async () => (await objects()).filter((o) => o.kind === "Pod" && o.reason === "NotReady").length === 2,
      );
      const shown = await fairlead(lab, "lab", "status");
      const json = JSON.parse((await fairlead(lab, "status", "--json")).out) as {
        readonly controller: { readonly objects: readonly Status[] };
        readonly problems: readonly { readonly object: string; readonly field: string; readonly fix: string }[];
      };
      for (const [what, fields, line] of expected) {
        const found = json.controller.objects.find((o) =>
          Object.entries(fields).every(([key, value]) => o[key as keyof Status] === value),
        );
        assert.ok(found, `${what}: no status with ${JSON.stringify(fields)}`);
        assert.ok(found.file !== "" && found.line > 0 && found.message !== "" && found.fix !== "", what);
        assert.match(shown.err, line, what);
      }
      // What only the lab itself cannot do: it runs programs, not images.
      assert.match(shown.err, /dies\.yaml: Pod shop\/image: spec\.containers\[0\]\.command: missing.*; give a command/);
      assert.deepEqual(
        json.problems.map((p) => [p.object, p.field]),
        [["Pod shop/image", "spec.containers[0].command"]],
      );
      assert.equal(shown.err.match(/torn\.yaml/g)?.length, 1, "each once");

      const table = await fairlead(lab, "status");
      assert.equal(table.code, 1, "something is refused");
      for (const name of [
        "shop/typo",
        "shop/field",
        "shop/nobody",
        "shop/empty",
        "shop/twin",
        "gone/lost",
        "shop/dies",
      ])
        assert.match(table.out, new RegExp(name));
      const twin = await fairlead(lab, "explain", "shop/client", "shop/twin:7001");
      assert.match(
        twin.err,
        /no service shop\/twin is known; twin\.yaml:1: Service shop\/twin: .*belongs to Service shop\/web/,
      );
      const log = await fairlead(lab, "lab", "logs", "controller");
      assert.match(log.out, /"file":"port\.yaml".*"object":"Service shop\/port","field":"spec\.ports\[0\]\.port"/);

      lab.write("twin.yaml", manifest(service("shop/twin", "web", { 7001: 7000 }, { clusterIP: "10.96.7.8" })));
      lab.write("torn.yaml", manifest(service("shop/torn", "web", { 80: 7000 }, { clusterIP: "10.96.7.9" })));
      await waitFor("mended", async () => {
        const now = await objects();
        return ["twin", "torn"].every((name) => now.find((o) => o.name === name)?.reason === "Accepted");
      });
      assert.equal(await reach("10.96.7.8", 7001), 0);
      assert.equal(await reach("10.96.7.9", 80), 0);
    });
  },
);
