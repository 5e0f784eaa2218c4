// The command line against a cluster, as a user types it: check, install, enrol, and all that shows the mesh, uninstall.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { InstalledMesh } from "../kit/installed-mesh.ts";
import { webPod } from "../kit/web-pod.ts";
import { type Finished, finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const timeout = 900_000;
const mesh = new InstalledMesh();

const fairlead = (...words: readonly string[]): Promise<Finished> =>
  finish([join(PROJECT_DIR, "bin/kubectl-fairlead"), ...words, "--kubeconfig", mesh.cluster.kubeconfig], {
    timeoutMs: timeout,
  });
/** Its JSON, whatever the exit code. */
async function told(...words: readonly string[]): Promise<{ readonly code: number; readonly json: never }> {
  const done = await fairlead(...words, "--json");
  try {
    return { code: done.code, json: JSON.parse(done.stdout) as never };
  } catch {
    throw new Error(`fairlead ${words.join(" ")}: ${done.code} ${done.stdout} ${done.stderr}`);
  }
}
type Findings = { readonly findings: readonly { readonly about: string; readonly state: string }[] };
const stateOf = ({ findings }: Findings, about: string): string | undefined =>
  findings.find((f) => f.about === about)?.state;

const service: KubeObject = {
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: "web", namespace: "shop" },
  spec: { selector: { app: "web" }, ports: [{ name: "http", port: 80, targetPort: 8080 }] },
};

before(() => mesh.up(), { timeout });
after(() => mesh[Symbol.asyncDispose](), { timeout });

test("[OPS-3] check says what a cluster without Fairlead lacks, and install brings it up with progress", {
  timeout,
}, async () => {
  const before = await told("check");
  assert.equal(before.code, 0);
  assert.deepEqual(
    ["Kubernetes", "nodes", "your rights", "Fairlead"].map((about) => stateOf(before.json, about)),
    ["ok", "ok", "ok", "warning"],
  );
  const words = [
    ...["--image-tag", "test", "--wait", "600"],
    ...["--agent-env", `FAIRLEAD_CGROUP=${join(hierarchies().v2, mesh.cluster.group, "$(FAIRLEAD_NODE)")}`],
  ];
  const trial = await told("install", ...words, "--dry-run");
  assert.equal(trial.code, 0);
  const installed = await fairlead("install", ...words);
  assert.equal(installed.code, 0, installed.stderr);
  assert.match(installed.stderr, /DaemonSet fairlead-system\/fairlead-agent: .* of 2 pods are ready/);
  const again = await fairlead("install", ...words);
  assert.match(again.stdout, / 0 created, 0 changed, /);
  const after = await told("check");
  assert.deepEqual([after.code, stateOf(after.json, "agents"), stateOf(after.json, "agent of n1")], [0, "ok", "ok"]);
});

test("[OPS-3] [INT-12] enrol takes running pods into the mesh and waits for it; status, explain, certs, top and tap show them", {
  timeout,
}, async () => {
  await mesh.said("create", "namespace", "shop");
  for (const object of [webPod("web", "n2", { page: "hello" }), webPod("client", "n1", { page: "hello" }), service])
    await mesh.api.apply(object);
  await mesh.said("-n", "shop", "wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=240s");
  assert.match((await fairlead("enrol", "shp")).stderr, /there is no namespace shp; did you mean shop/);
  const enrolled = await told("enrol", "shop", "--wait", "240");
  const { pods } = enrolled.json as { readonly pods: readonly { readonly name: string; readonly enrolled: string }[] };
  assert.deepEqual(pods.map((p) => [p.name, p.enrolled]).sort(), [
    ["client", "yes"],
    ["web", "yes"],
  ]);

  const fetch = (): Promise<string> => mesh.said("-n", "shop", "exec", "client", "--", "wget", "-qO-", "http://web");
  const tap = fairlead("tap", "shop/web", "--max", "1");
  let isTapped = false;
  void tap.then(() => {
    isTapped = true;
  });
  while (!isTapped) assert.equal(await fetch(), "hello");
  assert.match((await tap).stdout, / n2 < shop\/client -> shop\/web GET web\/ 200 /);

  const explained = await told("explain", "shop/client", "shop/web:80");
  const { verdict, lane } = explained.json as { readonly verdict: string; readonly lane: string };
  assert.deepEqual([explained.code, verdict, lane], [0, "allow", "tunnel"]);
  const status = await told("status");
  const { agents } = status.json as { readonly agents: readonly { readonly node: string; readonly value?: object }[] };
  assert.deepEqual(
    agents.map((a) => [a.node, a.value !== undefined]),
    [
      ["n1", true],
      ["n2", true],
    ],
  );
  const certs = await told("certs");
  const { certificates } = certs.json as { readonly certificates: readonly { readonly identity: string }[] };
  assert.equal(certificates.length, 2);
  for (const { identity } of certificates) assert.equal(identity, "spiffe://cluster.local/ns/shop/sa/default");
  const top = await told("top", "--once");
  const { requests } = top.json as {
    readonly requests: readonly { readonly source: string; readonly service: string; readonly errors: number }[];
  };
  // The server's agent may have counted a first request before it knew the client by more than its identity.
  const shown = JSON.stringify(requests);
  assert.ok(
    requests.some((r) => r.source === "shop/client"),
    shown,
  );
  assert.ok(
    requests.every((r) => r.service === "shop/web" && r.errors === 0),
    shown,
  );
  assert.equal((await told("routes")).code, 0);
});

test("[RES-1] [OPS-3] kubectl itself: explain, get respol with its columns, refusals that say what to do, and fairlead as its command", {
  timeout,
}, async () => {
  const file = join(PROJECT_DIR, "examples/resilience/breaker-retry-timeout.yaml");
  assert.match(await mesh.said("apply", "-f", file), /resiliencepolicy\S* created/);
  await mesh.said("-n", "shop", "wait", "--for=condition=Ready", "respol/web", "--timeout=120s");
  await mesh.said("-n", "shop", "wait", "--for=condition=Enforced", "respol/web", "--timeout=120s");
  const [head = "", row = ""] = (await mesh.said("-n", "shop", "get", "respol")).split("\n");
  assert.match(head, /^NAME +TARGETS +READY +REASON +ENFORCED +AGE$/);
  assert.match(row, /^web +web +True +Applied +True +\d+s$/);
  assert.match(await mesh.said("-n", "shop", "get", "respol", "-o", "wide"), / 2 of 2 nodes +\["shop\/web"\] /);
  assert.match(await mesh.said("-n", "shop", "describe", "respol", "web"), /Normal +\S+ .*fairlead/i);

  const explained = await mesh.said("explain", "respol.spec.retry");
  assert.match(explained, /KIND: +ResiliencePolicy\nVERSION: +v1alpha1\n\nFIELD: retry <Object>/);
  assert.match(explained, /maxAttempts\t<integer>\n +\w+/);
  for (const kind of ["respol", "ratelimitpolicies", "meshsettings"])
    assert.match(await mesh.said("explain", kind, "--recursive"), /FIELDS:[\s\S]*spec\t<Object>/, kind);

  const tooMany = JSON.stringify([{ op: "replace", path: "/spec/retry/maxAttempts", value: 11 }]);
  const bad = await mesh.kubectl("-n", "shop", "patch", "respol", "web", "--type=json", "-p", tooMany);
  assert.equal(bad.code, 1);
  assert.match(bad.stderr, /spec\.retry\.maxAttempts: .*less than or equal to 10/);

  const alias = await mesh.kubectlAlone("fairlead", "status", "--kubeconfig", mesh.cluster.kubeconfig);
  assert.equal(alias.code, 0, alias.stderr);
  assert.match(alias.stdout, /shop\/web/);
});

test("[OPS-3] diag gathers states, metrics and logs of all programs, and no keys", { timeout }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-diag-"));
  try {
    const out = join(folder, "out");
    const done = await fairlead("diag", "--out", out);
    assert.equal(done.code, 0, done.stderr);
    const files = readdirSync(out);
    for (const end of [".agent.log", ".controller.log", ".metrics.txt", ".status.json", ".tunnels.json"])
      assert.ok(files.filter((f) => f.endsWith(end)).length >= 2, `${end}: ${files}`);
    for (const file of files) {
      const text = readFileSync(join(out, file), "utf8");
      assert.ok(text.length > 0, file);
      assert.doesNotMatch(text, /PRIVATE KEY|"eyJhbGciOi/, file);
    }
    assert.match((await fairlead("diag", "--out", out)).stderr, /--out .*EEXIST/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("[OPS-3] [OPS-1] uninstall takes the mesh off the nodes and its objects off the cluster; pods go on", {
  timeout,
}, async () => {
  const done = await fairlead("uninstall", "--wait", "600");
  assert.equal(done.code, 0, done.stderr);
  assert.equal(await mesh.said("-n", "shop", "exec", "client", "--", "wget", "-qO-", "http://web"), "hello");
  assert.equal(
    await mesh.said("get", "crd,clusterrole,namespace", "-l", "app.kubernetes.io/name=fairlead", "-o", "name"),
    "",
  );
  assert.equal(stateOf((await told("check")).json, "Fairlead"), "warning");
});
