import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { FakeKubernetes } from "../../test/kit/fake-kubernetes.ts";
import { systemClock } from "../base/clock.ts";
import { createApiClient } from "./client.ts";
import { openLeanAccess } from "./lean-access.ts";

const nowhere = { host: "", port: "" };
function folder(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-access-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
const opened = async (t: TestContext, config: unknown) => {
  const kubeconfig = join(folder(t), "kubeconfig");
  writeFileSync(kubeconfig, typeof config === "string" ? config : JSON.stringify(config));
  return openLeanAccess({ kubeconfig, service: nowhere, serviceAccountDir: "/nowhere" });
};
const config = (cluster: object, user: object) => ({
  "current-context": "it",
  clusters: [{ name: "c", cluster }],
  contexts: [{ name: "it", context: { cluster: "c", user: "u", namespace: "own" } }],
  users: [{ name: "u", user }],
});
const plain = { server: "http://127.0.0.1:1", "insecure-skip-tls-verify": true };

test("the service account of a pod: its token is read anew for each request", async (t) => {
  const dir = folder(t);
  writeFileSync(join(dir, "ca.crt"), "");
  writeFileSync(join(dir, "token"), "first\n");
  writeFileSync(join(dir, "namespace"), "fairlead-system\n");
  const access = await openLeanAccess({
    kubeconfig: "",
    service: { host: "fd00::1", port: "443" },
    serviceAccountDir: dir,
  });
  assert.ok(access.ok);
  assert.deepEqual([access.value.server.href, access.value.namespace], ["https://[fd00::1]/", "fairlead-system"]);
  assert.deepEqual((await access.value.options()).headers, { Authorization: "Bearer first" });
  writeFileSync(join(dir, "token"), "second\n");
  assert.deepEqual((await access.value.options()).headers, { Authorization: "Bearer second" });
  access.value.close();
});

test("a kubeconfig with a token leads to the server", async (t) => {
  await using api = await FakeKubernetes.start();
  const access = await opened(t, config({ server: api.url, "insecure-skip-tls-verify": true }, { token: "secret" }));
  assert.ok(access.ok, JSON.stringify(access));
  const client = createApiClient(access.value, systemClock, undefined, "fairlead-agent");
  assert.ok((await client.send({ path: "/api/v1/namespaces" })).ok);
  const { authorization, "user-agent": agent } = api.asked[0]?.headers ?? {};
  assert.deepEqual([authorization, agent, access.value.namespace], ["Bearer secret", "fairlead-agent", "own"]);
  client.close();
});

test("files of a kubeconfig are named from where it lies, and read when they are needed", async (t) => {
  const dir = folder(t);
  const kubeconfig = join(dir, "kubeconfig");
  writeFileSync(kubeconfig, JSON.stringify(config(plain, { tokenFile: "token" })));
  const access = await openLeanAccess({ kubeconfig, service: nowhere, serviceAccountDir: "/nowhere" });
  assert.ok(access.ok);
  await assert.rejects(access.value.options(), /ENOENT.*token/);
  writeFileSync(join(dir, "token"), "late");
  assert.deepEqual((await access.value.options()).headers, { Authorization: "Bearer late" });
  access.value.close();
});

test("what cannot be used is named with variable or field, and what to do", async (t) => {
  const said = async (value: unknown): Promise<string> => {
    const access = await opened(t, value);
    return access.ok ? "" : access.error;
  };
  const none = await openLeanAccess({ kubeconfig: "", service: nowhere, serviceAccountDir: "/nowhere" });
  assert.match(none.ok ? "" : none.error, /FAIRLEAD_KUBECONFIG: is not set, and this is no pod/);
  const missing = await openLeanAccess({ kubeconfig: "/nowhere/it", service: nowhere, serviceAccountDir: "/nowhere" });
  assert.match(missing.ok ? "" : missing.error, /FAIRLEAD_KUBECONFIG: .*ENOENT/);
  assert.match(await said("{"), /FAIRLEAD_KUBECONFIG: /);
  assert.match(await said({ "current-context": "it" }), /current-context: names none/);
  assert.match(await said(config({ server: "http://127.0.0.1:1" }, {})), /server is not TLS: use https/);
  assert.match(await said(config({ server: "here" }, {})), /server is not https:\/\/HOST:PORT/);
  assert.match(await said(config(plain, { exec: { command: "aws" } })), /users: "exec" is not known .* use token/);
  assert.match(await said(config({ ...plain, "proxy-url": "x" }, {})), /clusters: "proxy-url" is not known/);
});
