import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, webcrypto } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../agent/base/clock.ts";
import { createApiClient } from "../../agent/kubernetes/client.ts";
import { FakeKubernetes } from "../../test/kit/fake-kubernetes.ts";
import { readConfig } from "../config.ts";
import { makeKey } from "../issue/pki.ts";
import { x509 } from "../issue/x509.ts";
import { openAccess } from "./access.ts";

function folder(): { readonly dir: string } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-access-"));
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}
/** An API server with a certificate of its own for 127.0.0.1; `asked` is told each Authorization header. */
async function tlsServer(
  asked: (authorization: string | undefined) => void,
): Promise<{ readonly port: number; readonly rootPem: string } & AsyncDisposable> {
  const key = await makeKey("p-256");
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const load = (format: "pkcs8" | "spki", der: Buffer, use: "sign" | "verify") =>
    webcrypto.subtle.importKey(format, new Uint8Array(der), algorithm, true, [use]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: "CN=fake",
    serialNumber: "01",
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 3_600_000),
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    keys: {
      privateKey: await load("pkcs8", createPrivateKey(key).export({ type: "pkcs8", format: "der" }), "sign"),
      publicKey: await load("spki", createPublicKey(key).export({ type: "spki", format: "der" }), "verify"),
    },
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.SubjectAlternativeNameExtension([{ type: "ip", value: "127.0.0.1" }]),
    ],
  });
  const rootPem = certificate.toString("pem");
  const server = createServer({ key, cert: rootPem }, (request, response) => {
    asked(request.headers.authorization);
    response.end('{"kind":"List","metadata":{"resourceVersion":"1"},"items":[]}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    rootPem,
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
const configOf = (server: string, cluster: object = {}, user: object = {}): string =>
  JSON.stringify({
    "current-context": "a",
    clusters: [{ name: "c", cluster: { server, ...cluster } }],
    contexts: [
      { name: "a", context: { cluster: "c", user: "u", namespace: "fairlead-system" } },
      { name: "b", context: { cluster: "none", user: "u" } },
    ],
    users: [{ name: "u", user }],
  });

test("[DIS-1] a kubeconfig that is of no use is refused with the variable and what to do", () => {
  using at = folder();
  const kubeconfig = join(at.dir, "config");
  const refusal = (text: string, context?: string): string => {
    writeFileSync(kubeconfig, text);
    const opened = openAccess({ kubeconfig, context });
    return opened.ok ? "taken" : opened.error;
  };
  assert.match(refusal("}{"), /^FAIRLEAD_KUBECONFIG: .* cannot be read/);
  assert.match(refusal("[]"), /^FAIRLEAD_KUBECONFIG: /);
  assert.match(refusal("clusters: []"), /^FAIRLEAD_KUBECONFIG: /);
  assert.match(refusal(configOf("https://a"), "prod"), /^FAIRLEAD_KUBE_CONTEXT: "prod" is none of a, b$/);
  assert.match(refusal(configOf("https://a"), "b"), /^FAIRLEAD_KUBECONFIG: no cluster is chosen/);
  assert.match(refusal(configOf("ftp://a")), /is not an address: write https/);
  assert.match(refusal(configOf("http://a")), /is not TLS: use https, or allow it/);
  assert.equal(refusal(configOf("http://a", { "insecure-skip-tls-verify": true })), "taken");
  const none = openAccess({ kubeconfig: join(at.dir, "none"), context: undefined });
  assert.match(none.ok ? "" : none.error, /FAIRLEAD_KUBECONFIG: .* cannot be read: ENOENT/);
  const noPod = openAccess({ kubeconfig: undefined, context: undefined, serviceAccountDir: at.dir });
  assert.match(noPod.ok ? "" : noPod.error, /FAIRLEAD_KUBECONFIG: is not set, and this is no pod/);
});

test("[DIS-1] the source is a folder or a cluster, and not both", () => {
  const problems = (env: Readonly<Record<string, string>>): readonly string[] => {
    const config = readConfig({ FAIRLEAD_STATE_DIR: "/tmp", ...env });
    return config.ok ? [] : config.error;
  };
  assert.deepEqual(problems({ FAIRLEAD_SOURCE: "kubernetes" }), []);
  assert.deepEqual(problems({ FAIRLEAD_MANIFESTS: "/tmp" }), []);
  assert.match(problems({})[0] ?? "", /^FAIRLEAD_MANIFESTS: is not set: .*FAIRLEAD_SOURCE/);
  assert.match(
    problems({ FAIRLEAD_SOURCE: "consul" })[0] ?? "",
    /^FAIRLEAD_SOURCE: "consul" is none of folder, kubernetes/,
  );
  for (const [name, value, message] of [
    ["FAIRLEAD_LEASE_MS", "9500", /no multiple of 1000/],
    ["FAIRLEAD_LEASE_RENEW_MS", "10000", /not below FAIRLEAD_LEASE_MS [(]10000[)]/],
    ["FAIRLEAD_LEASE_RETRY_MS", "4000", /over half of FAIRLEAD_LEASE_RENEW_MS/],
  ] as const) {
    const [problem = "none"] = problems({ FAIRLEAD_SOURCE: "kubernetes", [name]: value });
    assert.ok(problem.startsWith(`${name}: `) && message.test(problem), problem);
  }
  for (const name of ["FAIRLEAD_MANIFESTS", "FAIRLEAD_LIVE_DIR"])
    assert.match(
      problems({ FAIRLEAD_SOURCE: "kubernetes", [name]: "/tmp" })[0] ?? "",
      new RegExp(`^${name}: is set, but FAIRLEAD_SOURCE is kubernetes`),
    );
});

test("[DIS-1] a kubeconfig's token is sent, and one connection serves request after request", async () => {
  using at = folder();
  await using fake = await FakeKubernetes.start();
  const kubeconfig = join(at.dir, "config");
  writeFileSync(kubeconfig, fake.kubeconfig());
  const opened = openAccess({ kubeconfig, context: undefined });
  assert.ok(opened.ok);
  const api = createApiClient(opened.value, systemClock);
  for (let i = 0; i < 3; i++) assert.ok((await api.send({ path: "/api/v1/pods" })).ok);
  assert.deepEqual([...new Set(fake.asked.map((asked) => asked.headers.authorization))], ["Bearer secret"]);
  assert.equal(new Set(fake.ports).size, 1);
  api.close();
});

test("[DIS-1] in a pod: its service account's token and root, and only that root", async () => {
  using at = folder();
  const dir = join(at.dir, "var/run/secrets/kubernetes.io/serviceaccount");
  mkdirSync(dir, { recursive: true });
  const seen: (string | undefined)[] = [];
  await using served = await tlsServer((authorization) => void seen.push(authorization));
  writeFileSync(join(dir, "token"), "first\n");
  writeFileSync(join(dir, "namespace"), "fairlead-system");
  writeFileSync(join(dir, "ca.crt"), served.rootPem);
  const environment = { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: `${served.port}` };
  Object.assign(process.env, environment);
  const opened = openAccess({ kubeconfig: undefined, context: undefined, serviceAccountDir: dir });
  assert.ok(opened.ok, JSON.stringify(opened));
  assert.equal(opened.value.namespace, "fairlead-system");
  const api = createApiClient(opened.value, systemClock);
  assert.ok((await api.send({ path: "/api/v1/pods" })).ok);
  assert.deepEqual(seen, ["Bearer first"]);
  // Another root: a server that it does not vouch for gets nothing, the token least of all.
  await using other = await tlsServer(() => {});
  writeFileSync(join(dir, "ca.crt"), other.rootPem);
  const refused = await api.send({ path: "/api/v1/pods" });
  assert.match(refused.ok ? "" : JSON.stringify(refused.error), /self.signed|certificate/i);
  assert.equal(seen.length, 1);
  rmSync(join(dir, "ca.crt"));
  const unreadable = await api.send({ path: "/api/v1/pods" });
  assert.deepEqual(unreadable.ok ? "" : unreadable.error.kind, "credentials");
  api.close();
});
