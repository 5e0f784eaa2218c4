import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, type RequestOptions, request } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { connect as connectTls } from "node:tls";
import { type Answer, call, startController, type TestController } from "../kit/controller.ts";
import { type Credential, joinedNode, makeCsr, rootsOf } from "../kit/node-agent.ts";
import { authorization, namespace, peerAuthentication, pod, service } from "../kit/objects.ts";
import { eventually } from "../kit/wait.ts";

const files = {
  "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5"), service("shop", "web")].join("\n---\n"),
};
const allowNodes = { FAIRLEAD_ADMIN_SAN_PREFIXES: "spiffe://cluster.local/node/" };

function overTls(
  controller: TestController,
  roots: string,
  credential: Credential | undefined,
  options: RequestOptions,
  body?: string,
): Promise<Answer> {
  const agent = new Agent({ keepAlive: false });
  return new Promise((resolve, reject) => {
    const client = credential === undefined ? {} : { cert: credential.chainPem, key: credential.keyPem };
    const base = {
      host: "127.0.0.1",
      port: controller.ports.admin,
      ca: roots,
      servername: "fairlead-controller",
      agent,
    };
    const outgoing = request({ ...base, ...client, ...options }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text, json: undefined }));
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

test("[SEC-6] the admin endpoint wants TLS 1.3, a certificate of the mesh and an allowed name in it", async () => {
  await using controller = await startController(files, allowNodes);
  const node = await joinedNode(controller, "n1");
  const roots = node.rootsPem;
  assert.equal((await overTls(controller, roots, node.credential, { path: "/v1/status" })).status, 200);
  await assert.rejects(
    overTls(controller, roots, undefined, { path: "/v1/status" }),
    /certificate required|ECONNRESET|EPIPE|socket hang up/,
  );
  await assert.rejects(
    overTls(controller, roots, node.credential, { path: "/v1/status", maxVersion: "TLSv1.2" }),
    /version|handshake/i,
  );
  const web = "spiffe://cluster.local/ns/shop/sa/web";
  const keyed = await makeCsr(web);
  const svid = { chainPem: (await node.issue(web, keyed.csrPem)).chainPem, keyPem: keyed.keyPem };
  const refused = await overTls(controller, roots, svid, { path: "/v1/status" });
  assert.equal(refused.status, 403);
  await controller.logged("admin_caller_refused", ({ callerIds }) => String(callerIds).includes(web));
  // A certificate of another authority with the right name.
  await using other = await startController(files, { FAIRLEAD_CA_ROOT_CERT_FILE: "", FAIRLEAD_CA_ROOT_KEY_FILE: "" });
  const impostor = await joinedNode(other, "n1");
  await assert.rejects(overTls(controller, roots, impostor.credential, { path: "/v1/status" }));
});

test("[SEC-6] paths that climb, unknown fields, wrong types and long bodies are refused", async () => {
  await using controller = await startController(files);
  for (const path of [
    "/v1/../v1/status",
    "/v1/%2e%2e/status",
    "//v1/status",
    "/v1/status/",
    "/v1/sta\u00e9tus",
    "/v1/status;x",
    "/..",
    `/${"a".repeat(600)}`,
  ]) {
    const { status } = await call({ socketPath: controller.socket }, "GET", encodeURI(path));
    assert.ok(status === 400 || status === 404, `${path}: ${status}`);
  }
  const post = (body: unknown) => controller.admin("POST", "/v1/join-tokens", body);
  assert.equal((await post({ node: "n1", extra: 1 })).status, 400);
  assert.match((await post({ node: "n1", extra: 1 })).text, /unknown field .*extra.*known: node/);
  assert.match((await post({ node: "n1", __proto__x: 1 })).text, /unknown field/);
  assert.equal((await post({ node: 1 })).status, 400);
  assert.equal((await post({})).status, 400);
  assert.equal((await post({ node: "../etc" })).status, 400);
  assert.equal((await post("[1]")).status, 400);
  assert.equal((await post("{")).status, 400);
  assert.equal((await post({ node: "n".repeat(20_000) })).status, 413);
  assert.equal((await controller.admin("GET", "/v1/join-tokens")).status, 405);
  assert.equal((await controller.admin("POST", "/v1/nothing", {})).status, 404);
});

test("[SEC-6] a caller that is slow to send its head is cut off after five seconds", async () => {
  await using controller = await startController(files);
  const began = performance.now();
  const socket = connect(controller.socket);
  socket.write("GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ");
  await new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
    socket.on("error", () => {});
    socket.resume();
  });
  const tookMs = performance.now() - began;
  assert.ok(tookMs > 3000 && tookMs < 60_000, `${tookMs}`);
});

test("[SEC-6] nothing but health and metrics answers without a certificate", async () => {
  await using controller = await startController(files);
  const health = { host: "127.0.0.1", port: controller.ports.health };
  for (const path of ["/v1/status", "/v1/roots", "/v1/config", "/v1/join-tokens"])
    assert.equal((await call(health, "GET", path)).status, 404);
  const plain = await new Promise<string>((resolve) => {
    const socket = connect(controller.ports.admin, "127.0.0.1", () =>
      socket.write("GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n"),
    );
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(text));
  });
  assert.ok(!plain.includes("objects"));
  const certificate = await new Promise<string>((resolve, reject) => {
    const socket = connectTls(
      { host: "127.0.0.1", port: controller.ports.grpc, ALPNProtocols: ["h2"], rejectUnauthorized: false },
      () => {
        resolve(socket.getPeerX509Certificate()?.subjectAltName ?? "");
        socket.destroy();
      },
    );
    socket.on("error", reject);
  });
  assert.match(certificate, /DNS:fairlead-controller/);
  assert.match(certificate, /IP Address:127.0.0.1/);
  assert.match(certificate, /URI:spiffe:\/\/cluster.local\/ns\/fairlead-system\/sa\/fairlead-controller/);
});

test("[OBS-7] health, readiness and metrics", async () => {
  await using controller = await startController(files);
  const health = { host: "127.0.0.1", port: controller.ports.health };
  assert.equal((await call(health, "GET", "/healthz")).status, 200);
  assert.equal((await call(health, "GET", "/readyz")).status, 200);
  const { json } = await call(health, "GET", "/health");
  assert.equal(json.ready, true);
  assert.equal(json.objects, 3);
  const metrics = (await call(health, "GET", "/metrics")).text;
  for (const line of [
    /^fairlead_controller_objects\{kind="Pod",state="accepted"\} 1$/m,
    /^fairlead_controller_resources\{type="Workload"\} 1$/m,
    /^process_cpu_seconds_total/m,
  ]) {
    assert.match(metrics, line);
  }
  rmSync(controller.manifests, { recursive: true });
  await controller.admin("POST", "/v1/sync");
  const gone = await call(health, "GET", "/readyz");
  assert.equal(gone.status, 503);
  assert.match(gone.text, /ENOENT/);
  assert.equal((await controller.admin("GET", "/v1/services")).json.services.length, 1, "what was in force stays");
  mkdirSync(controller.manifests);
});

test("[DIS-9] every kind of bad input is a status with file, field and fix, and everything else goes on", async () => {
  await using controller = await startController({
    ...files,
    "broken.yaml": "kind: Service\nmetadata: {name: x\n",
    "bad.yaml": [
      service("shop", "port", { ports: [{ port: 99999 }] }),
      service("nowhere", "lost"),
      service("shop", "one", { clusterIP: "10.96.5.5", selector: { app: "web" } }),
      service("shop", "two", { clusterIP: "10.96.5.5" }),
      service("shop", "empty", { selector: { app: "nobody" } }),
      authorization("shop", "selects-nothing", { selector: { matchLabels: { app: "nobody" } }, rules: [{}] }),
      peerAuthentication("shop", "wrong", { mtls: { mode: "STRIKT" } }),
      '{"apiVersion":"v1","kind":"Pood","metadata":{"name":"p"}}',
      '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"shop"},"spec":{}}',
    ].join("\n---\n"),
  });
  const { objects } = (await controller.admin("GET", "/v1/status")).json;
  const of = (name: string, kind?: string) =>
    objects.find((o: { name: string; kind: string }) => o.name === name && (kind === undefined || o.kind === kind));
  const brief = (name: string) => [of(name).accepted, of(name).reason, of(name).field];
  assert.deepEqual(brief("port"), [false, "Invalid", "spec.ports[0].port"]);
  assert.deepEqual(brief("lost"), [false, "NamespaceMissing", "metadata.namespace"]);
  assert.deepEqual(brief("one"), [true, "Accepted", ""]);
  assert.deepEqual(brief("two"), [false, "AddressTaken", "spec.clusterIP"]);
  assert.deepEqual(brief("empty"), [true, "NoEndpoints", "spec.selector"]);
  assert.deepEqual(brief("selects-nothing"), [true, "SelectsNothing", "spec.selector"]);
  assert.deepEqual(brief("wrong"), [false, "Invalid", "spec.mtls.mode"]);
  assert.equal(of("wrong").fix, "use STRICT");
  assert.deepEqual(brief("p"), [false, "Invalid", "kind"]);
  assert.deepEqual(brief("d"), [true, "Ignored", ""]);
  const torn = objects.find((o: { file: string }) => o.file === "broken.yaml");
  assert.deepEqual([torn.accepted, torn.reason], [false, "Unreadable"]);
  for (const object of objects) {
    assert.ok(object.file !== "" && object.line >= 1);
    if (!object.accepted) assert.ok(object.message !== "" && object.fix !== "", JSON.stringify(object));
  }
  assert.deepEqual(brief("web-1"), [true, "ServiceAccountMissing", "spec.serviceAccountName"]);
  for (const refused of objects.filter((o: { accepted: boolean }) => !o.accepted)) {
    await controller.logged("object_refused", ({ file, field }) => file === refused.file && field === refused.field);
  }
  // The last good version stays while the new one is bad, and the status says so.
  const before = (await controller.admin("GET", "/v1/services")).json.services.find(
    (s: { name: string }) => s.name === "one",
  );
  await controller.write("bad.yaml", service("shop", "one", { clusterIP: "not-an-ip" }));
  const after = (await controller.admin("GET", "/v1/services")).json.services.find(
    (s: { name: string }) => s.name === "one",
  );
  assert.deepEqual(after, before);
  const status = (await controller.admin("GET", "/v1/status")).json.objects.find(
    (o: { name: string }) => o.name === "one",
  );
  assert.match(status.message, /the last good version stays in force/);
});

test("enforcement: an agent's report says where a policy is not in force", async () => {
  await using controller = await startController({
    ...files,
    "p.yaml": authorization("shop", "p", { action: "DENY", rules: [{}] }),
  });
  const node = await joinedNode(controller, "n1");
  const stream = node.stream();
  try {
    stream.subscribe("type.googleapis.com/fairlead.v1.Authorization");
    stream.ack(await stream.next());
    const policy = async () =>
      (await controller.admin("GET", "/v1/status")).json.objects.find((o: { name: string }) => o.name === "p");
    await node.report({ node: "n1", agentVersion: "1", interception: "ebpf", pods: [], enforcements: [] });
    assert.deepEqual((await policy()).enforced, { nodes: 1, of: 1 });
    const enforcement = {
      typeUrl: "type.googleapis.com/fairlead.v1.Authorization",
      resource: "shop/p",
      enforced: false,
      reason: "needs L7",
    };
    const pods = [{ pod: "shop/web-1", enrolled: false, reason: "no cgroup" }];
    await node.report({ node: "n1", agentVersion: "1", interception: "ebpf", pods, enforcements: [enforcement] });
    assert.deepEqual([(await policy()).enforced, (await policy()).why], [{ nodes: 0, of: 1 }, ["n1: needs L7"]]);
    await eventually(async () => {
      const web = (await controller.admin("GET", "/v1/status")).json.objects.find(
        (o: { name: string }) => o.name === "web-1",
      );
      assert.match(
        web.message,
        /is not in the mesh: no cgroup/,
        "[DP-9] no tunnel is announced for a pod that could not be enrolled",
      );
    });
    await assert.rejects(
      node.report({ node: "n2", agentVersion: "", interception: "", pods: [], enforcements: [] }),
      /another node/,
    );
  } finally {
    stream.close();
  }
});

test("a state folder or configuration that cannot be used is one clear line", async () => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-bad-"));
  try {
    writeFileSync(join(dir, "file"), "");
    await assert.rejects(
      startController(files, { FAIRLEAD_STATE_DIR: join(dir, "file/x") }),
      /^Error: exit 1: fairlead controller: state file .*choose another FAIRLEAD_STATE_DIR$/,
    );
    mkdirSync(join(dir, "state"), { mode: 0o700 });
    writeFileSync(join(dir, "state/ca.json"), "{");
    await assert.rejects(
      startController(files, { FAIRLEAD_STATE_DIR: join(dir, "state") }),
      /ca.json is damaged: restore it/,
    );
    await assert.rejects(
      startController(files, { FAIRLEAD_LISTEN: "here", FAIRLEAD_RENEW_AT: "0.9" }),
      /exit 2: .*FAIRLEAD_LISTEN: "here" is not host:port\n.*FAIRLEAD_RENEW_AT: "0.9" is not a number from 0.1 to 0.8/,
    );
    await using first = await startController(files);
    await assert.rejects(
      startController(files, { FAIRLEAD_LISTEN: `127.0.0.1:${first.ports.grpc}` }),
      /exit 1: fairlead controller: agents listener: .*(EADDRINUSE|bind)/,
    );
  } finally {
    chmodSync(dir, 0o700);
    rmSync(dir, { recursive: true, force: true });
  }
});

test("a full disk refuses what must be stored, and everything else goes on", async () => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-full-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", dir]);
    await using controller = await startController(files, { FAIRLEAD_STATE_DIR: dir });
    const node = await joinedNode(controller, "n1");
    writeFileSync(join(dir, "ballast"), Buffer.alloc(4096));
    try {
      for (let i = 0; i < 100; i++) writeFileSync(join(dir, `ballast-${i}`), Buffer.alloc(4096));
    } catch {
      // Full.
    }
    const answer = await controller.admin("POST", "/v1/join-tokens", { node: "n2" });
    assert.equal(answer.status, 500);
    assert.match(answer.text, /join-tokens.json cannot be written: the disk is full: free some space/);
    const web = "spiffe://cluster.local/ns/shop/sa/web";
    await node.issue(web, (await makeCsr(web)).csrPem);
    assert.equal((await controller.admin("POST", "/v1/ca/rotate", { phase: "begin" })).status, 500);
    assert.equal((await controller.admin("GET", "/v1/ca")).json.phase, "steady");
    assert.ok((await rootsOf(controller)).includes("BEGIN"));
  } finally {
    execFileSync("umount", ["-l", dir]);
    rmSync(dir, { recursive: true, force: true });
  }
});
