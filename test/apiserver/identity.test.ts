// Who gets certificates in a cluster, decided with a real API server: real service account tokens, bound to real Pods, and the CA in a Secret.
import assert from "node:assert/strict";
import { createPrivateKey, sign, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { loadSigner, makeIntermediate, makeRoot } from "../../controller/issue/pki.ts";
import { openApiServer, skipApi } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import { podToken } from "../kit/api-server.ts";
import { call, startController, type TestController } from "../kit/controller.ts";
import { callerWithToken, makeCsr, recordsOf, rootsOf, type TestCaller } from "../kit/node-agent.ts";
import { ownCa } from "../kit/shared-ca.ts";
import { eventually } from "../kit/wait.ts";

const dir = mkdtempSync(join(tmpdir(), "fairlead-identity-"));
const kubeconfig = join(dir, "kubeconfig");
const timeout = 3_600_000;
const options = { skip: skipApi, timeout } as const;
const env = {
  FAIRLEAD_SOURCE: "kubernetes",
  FAIRLEAD_KUBECONFIG: kubeconfig,
  FAIRLEAD_MANIFESTS: "",
  FAIRLEAD_LIVE_DIR: "",
  FAIRLEAD_TOKEN_CACHE_MS: "100",
  FAIRLEAD_PLACEMENT_WAIT_MS: "300",
  ...ownCa,
};
const system = "fairlead-system";
let server: Awaited<ReturnType<typeof openApiServer>>;
let api: KubeApi;

const account = (namespace: string, name: string): KubeObject => ({
  apiVersion: "v1",
  kind: "ServiceAccount",
  metadata: { namespace, name },
});
async function runs(
  namespace: string,
  name: string,
  node: string,
  serviceAccountName: string,
  spec: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await api.apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace },
    spec: { nodeName: node, serviceAccountName, containers: [{ name: "c", image: "x" }], ...spec },
  });
  await phase(namespace, name, "Running");
}
const phase = (namespace: string, name: string, value: string): Promise<string> =>
  api.call(
    "PATCH",
    `/api/v1/namespaces/${namespace}/pods/${name}/status`,
    { status: { phase: value } },
    "application/merge-patch+json",
  );
const gone = (namespace: string, name: string): Promise<string> =>
  api.call("DELETE", `/api/v1/namespaces/${namespace}/pods/${name}?gracePeriodSeconds=0`);

const tokenOf = (namespace: string, name: string, pod: string | undefined, audience = "fairlead-ca"): Promise<string> =>
  podToken(api, `${namespace}/${name}`, pod, audience);
/** The token with other claims, signed by the API server's own key. */
function resigned(token: string, change: (claims: Record<string, unknown>) => void): string {
  const [head = "", body = ""] = token.split(".");
  const claims = JSON.parse(Buffer.from(body, "base64url").toString()) as Record<string, unknown>;
  change(claims);
  const text = `${head}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
  const key = createPrivateKey(readFileSync(join(server.cluster.pki, "tokens.key")));
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
const agentToken = (pod = "agent-1", audience?: string): Promise<string> =>
  tokenOf(system, "fairlead-agent", pod, audience);

before(
  async () => {
    if (skipApi !== false) return;
    server = await openApiServer();
    ({ api } = server);
    const labels = { "fairlead.dev/mesh": "enabled" };
    await api.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "shop", labels } });
    for (const name of ["n1", "n2"]) await api.apply({ apiVersion: "v1", kind: "Node", metadata: { name } });
    for (const object of parseObjects(readFileSync("manifests/kubernetes/controller-rbac.yaml", "utf8")))
      await api.apply(object);
    for (const name of ["fairlead-agent", "other"]) await api.apply(account(system, name));
    for (const name of ["web", "db", "host"]) await api.apply(account("shop", name));
    await runs(system, "agent-1", "n1", "fairlead-agent");
    await runs(system, "agent-2", "n2", "fairlead-agent");
    await runs(system, "other-1", "n1", "other");
    await runs("shop", "web-1", "n1", "web");
    await runs("shop", "db-1", "n2", "db");
    await runs("shop", "host-1", "n1", "host", { hostNetwork: true });
    const token = await tokenOf(
      system,
      "fairlead-controller",
      undefined,
      "https://kubernetes.default.svc.cluster.local",
    );
    const root = readFileSync(join(server.cluster.pki, "ca.crt")).toString("base64");
    writeFileSync(
      kubeconfig,
      JSON.stringify({
        "current-context": "it",
        clusters: [{ name: "it", cluster: { server: api.server, "certificate-authority-data": root } }],
        contexts: [{ name: "it", context: { cluster: "it", user: "it", namespace: system } }],
        users: [{ name: "it", user: { token } }],
      }),
    );
  },
  { timeout },
);
after(
  async () => {
    await server?.[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  },
  { timeout },
);

const web = "spiffe://cluster.local/ns/shop/sa/web";
const asks = async (caller: TestCaller, identity: string): Promise<string> =>
  (await caller.issue(identity, (await makeCsr(identity)).csrPem)).chainPem;
async function counted(controller: TestController, line: RegExp): Promise<void> {
  const { text } = await call({ host: "127.0.0.1", port: controller.ports.health }, "GET", "/metrics");
  assert.match(text, line);
}

test(
  "[IDN-3] an agent gets certificates and discovery by its token, for pods of its own node, and no other caller does",
  options,
  async (t) => {
    await using controller = await startController({}, env);
    const roots = await rootsOf(controller);
    const by = (token: string): TestCaller => callerWithToken(controller, token, roots);
    const token = await agentToken();
    const agent = by(token);

    await t.test("its own node's workloads, and their names in the certificate", async () => {
      const leaf = new X509Certificate(await asks(agent, web));
      assert.equal(leaf.subjectAltName, `URI:${web}`);
      await counted(controller, /^fairlead_token_reviews_total\{outcome="authenticated"\} [1-9]/m);
    });

    await t.test("[DIS-1] the discovery stream opens with the same token", async () => {
      const stream = agent.stream();
      try {
        stream.subscribe(typeUrlOf("Workload"));
        const names = recordsOf(await stream.next()).map((r): string => (r.kind === "Workload" ? r.value.uid : ""));
        assert.ok(names.includes("cluster.local/shop/web-1"), String(names));
      } finally {
        stream.close();
      }
    });

    const refusals: readonly [string, () => Promise<string>, string, RegExp, string][] = [
      ["another audience", () => agentToken("agent-1", "vault"), web, /not for the audience fairlead-ca/, "audience"],
      [
        "an expired one",
        async () =>
          resigned(await agentToken(), (claims) => {
            claims.exp = Math.floor(Date.now() / 1000) - 5;
          }),
        web,
        /has expired/,
        "expired",
      ],
      [
        "one that somebody else signed",
        async () => `${token.slice(0, -8)}AAAAAAAA`,
        web,
        /API server does not accept/,
        "not_authenticated",
      ],
      ["another account's", () => tokenOf(system, "other", "other-1"), web, /other may not ask/, "account"],
      ["one bound to no pod", () => tokenOf(system, "fairlead-agent", undefined), web, /bound to no pod/, "unbound"],
      [
        "one whose pod is said to be elsewhere",
        async () =>
          resigned(await agentToken(), (claims) => {
            (claims["kubernetes.io"] as { node: { name: string } }).node.name = "n2";
          }),
        web,
        /of the node n2, its pod runs on n1|does not accept/,
        "(other_node|not_authenticated)",
      ],
      ["no token at all", async () => "nothing", web, /is no JWT/, "malformed"],
    ];
    for (const [what, make, identity, says, reason] of refusals)
      await t.test(`refused, logged and counted: ${what}`, async () => {
        const shown = await make();
        await assert.rejects(asks(by(shown), identity), says);
        await controller.logged("caller_refused", (line) => new RegExp(`^${reason}$`).test(String(line.reason)));
        await counted(controller, new RegExp(`^fairlead_callers_refused_total\\{reason="${reason}"\\} [1-9]`, "m"));
        const stream = by(shown).stream();
        await assert.rejects(stream.next(), says);
        stream.close();
      });

    const elsewhere: readonly [string, string][] = [
      ["a pod of another node", "spiffe://cluster.local/ns/shop/sa/db"],
      ["a pod on the host's network", "spiffe://cluster.local/ns/shop/sa/host"],
      ["no pod", "spiffe://cluster.local/ns/shop/sa/nobody"],
    ];
    for (const [what, identity] of elsewhere)
      await t.test(`no certificate for ${what}`, async () => {
        await assert.rejects(asks(agent, identity), /no pod of .* runs on the node n1/);
        await controller.logged("certificate_refused", (line) => line.identity === identity);
      });

    await t.test("a report for another node is refused", async () => {
      const report = { node: "n2", agentVersion: "", interception: "", pods: [], enforcements: [] };
      await assert.rejects(agent.report(report), /n1 cannot report for another node/);
    });

    await t.test("without a node claim (clusters before 1.30) the bound pod's node counts", async () => {
      const old = resigned(token, (claims) => {
        delete (claims["kubernetes.io"] as { node?: unknown }).node;
      });
      await asks(by(old), web);
      await assert.rejects(asks(by(old), "spiffe://cluster.local/ns/shop/sa/db"), /no pod of/);
    });

    await t.test(
      "a pod that has ended has no certificate, and neither has an agent that is gone any rights",
      async () => {
        await phase("shop", "web-1", "Succeeded");
        await eventually(() => assert.rejects(asks(agent, web), /no pod of/));
        await phase("shop", "web-1", "Running");
        await gone(system, "agent-1");
        await eventually(() => assert.rejects(asks(agent, web), /does not run|does not accept/));
        await runs(system, "agent-1", "n1", "fairlead-agent");
        await assert.rejects(asks(agent, web), /does not run|does not accept/, "the name is the same, the pod another");
      },
    );

    await t.test("a pod that is not seen yet is waited for, not refused", async () => {
      await controller.restart({ FAIRLEAD_PLACEMENT_WAIT_MS: "60000" });
      await api.apply(account("shop", "late"));
      const late = "spiffe://cluster.local/ns/shop/sa/late";
      const asking = asks(by(await agentToken()), late);
      await runs("shop", "late-1", "n1", "late");
      assert.match(await asking, /BEGIN CERTIFICATE/);
    });
  },
);

const caOf = async (controller: TestController) => (await controller.admin("GET", "/v1/ca")).json;
const rootOf = async (controller: TestController): Promise<string> =>
  (await caOf(controller)).roots.find((root: { active: boolean }) => root.active).sha256;
const configMap = async (): Promise<string> =>
  (await api.get<{ data: Record<string, string> }>(`/api/v1/namespaces/${system}/configmaps/fairlead-ca-root`)).data[
    "root-cert.pem"
  ] ?? "";
const removeSecret = (name: string): Promise<string> =>
  api.call("DELETE", `/api/v1/namespaces/${system}/secrets/${name}`);

test(
  "[IDN-1] replicas that begin together have one CA in a Secret, and what one does to it the others do too",
  options,
  async () => {
    await removeSecret("fairlead-ca").catch(() => undefined);
    const both = await Promise.all([startController({}, env), startController({}, env)]);
    await using one = both[0];
    await using two = both[1];
    assert.equal(await rootOf(one), await rootOf(two));
    const roots = await rootsOf(one);
    await eventually(async () => assert.equal(await configMap(), roots));
    // Each signs what the other's agents believe.
    await asks(callerWithToken(one, await agentToken(), roots), web);
    await asks(callerWithToken(two, await agentToken(), roots), web);

    assert.equal((await one.admin("POST", "/v1/ca/rotate", { phase: "begin" })).status, 200);
    await two.logged("ca_reloaded", (line) => line.phase === "both-trusted");
    assert.equal((await caOf(two)).roots.length, 2);
    await eventually(async () => assert.equal(await configMap(), await rootsOf(two)));
    const early = await two.admin("POST", "/v1/ca/rotate", { phase: "switch" });
    assert.match(early.text, /agents of other replicas may not have taken the trust bundle yet/);
    assert.equal((await two.admin("POST", "/v1/ca/rotate", { phase: "switch", force: true })).status, 200);
    await one.logged("ca_reloaded", (line) => line.phase === "switched");
    assert.equal(await rootOf(one), await rootOf(two));

    // Somebody removes it: the next start would begin a new CA that nobody trusts.
    await removeSecret("fairlead-ca");
    await one.logged("ca_reloaded", (line) => line.phase === "switched");
    await eventually(async () => {
      await api.get(`/api/v1/namespaces/${system}/secrets/fairlead-ca`);
    });
    const before = await rootOf(one);
    await one.restart();
    assert.equal(await rootOf(one), before);
  },
);

test(
  "[IDN-1] a CA in cert-manager's shape is taken from its Secret, and a renewed one without a restart",
  options,
  async () => {
    await removeSecret("fairlead-ca").catch(() => undefined);
    const root = await makeRoot("cluster.local", Date.now());
    const signer = await loadSigner(root);
    const issuing = () => makeIntermediate(signer, "cluster.local", Date.now());
    const put = async (issuer: { readonly certPem: string; readonly keyPem: string }): Promise<void> => {
      await api.apply({
        apiVersion: "v1",
        kind: "Secret",
        type: "kubernetes.io/tls",
        metadata: { namespace: system, name: "issuing" },
        stringData: { "tls.crt": issuer.certPem, "tls.key": issuer.keyPem, "ca.crt": root.certPem },
      });
    };
    await api.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "Role",
      metadata: { namespace: system, name: "issuing" },
      rules: [{ apiGroups: [""], resources: ["secrets"], resourceNames: ["issuing"], verbs: ["get"] }],
    });
    await api.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { namespace: system, name: "issuing" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "issuing" },
      subjects: [{ kind: "ServiceAccount", name: "fairlead-controller", namespace: system }],
    });
    const first = await issuing();
    await put(first);
    await using controller = await startController({}, { ...env, FAIRLEAD_CA_SUPPLIED_SECRET: "issuing" });
    assert.equal((await rootsOf(controller)).trim(), root.certPem.trim());
    const agent = callerWithToken(controller, await agentToken(), root.certPem);
    const issuerOf = async (): Promise<string> => (await asks(agent, web)).split(/(?=-----BEGIN)/)[1] ?? "";
    assert.equal((await issuerOf()).trim(), first.certPem.trim());
    const second = await issuing();
    await put(second);
    await eventually(async () => assert.equal((await issuerOf()).trim(), second.certPem.trim()));
    // One that does not belong to the root changes nothing.
    const stranger = await makeRoot("cluster.local", Date.now());
    await put(await makeIntermediate(await loadSigner(stranger), "cluster.local", Date.now()));
    await controller.logged("ca_not_reloaded", (line) => /ca.crt is not the issuer/.test(String(line.reason)));
    assert.equal((await issuerOf()).trim(), second.certPem.trim());
  },
);
