import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { importPkcs12 } from "../../controller/issue/pkcs12.ts";
import { startController } from "../kit/controller.ts";
import { join, joinedNode, makeCsr, nodeWith, rootsOf, tokenFor } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { ownCa } from "../kit/shared-ca.ts";

const web = "spiffe://cluster.local/ns/shop/sa/web";
const files = { "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5")].join("\n---\n") };
const refused = (code: number, text: RegExp) => (error: { code?: number; details?: string }) =>
  error.code === code && text.test(error.details ?? "");

const splitChain = (pem: string): readonly string[] =>
  pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g) ?? [];
/** Runs openssl on files made of the given texts ("@name" arguments). */
function openssl(args: readonly string[], texts: Readonly<Record<string, string>>): string {
  const dir = mkdtempSync(joinPath(tmpdir(), "fairlead-openssl-"));
  try {
    for (const [name, text] of Object.entries(texts)) writeFileSync(joinPath(dir, name), text);
    return execFileSync(
      "openssl",
      args.map((arg) => (arg.startsWith("@") ? joinPath(dir, arg.slice(1)) : arg)),
      { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

test("[IDN-1] [IDN-2] [IDN-6] a certificate has its workload's identity, its dates, and passes openssl verify", async () => {
  await using controller = await startController(files, ownCa);
  const node = await joinedNode(controller, "n1");
  const began = Date.now();
  const { chainPem, notAfterMs, trustGeneration } = await node.issue(web, (await makeCsr(web)).csrPem);
  assert.equal(trustGeneration, 1);
  const [leafPem = "", intermediatePem = ""] = splitChain(chainPem);
  const leaf = new X509Certificate(leafPem);
  assert.equal(leaf.subjectAltName, `URI:${web}`);
  assert.equal(leaf.ca, false);
  assert.deepEqual(leaf.keyUsage, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  const [from, to] = [Date.parse(leaf.validFrom), Date.parse(leaf.validTo)];
  assert.ok(Math.abs(began - 300_000 - from) < 10_000, "five minutes in the past");
  assert.ok(Math.abs(began + 86_400_000 - to) < 10_000, "24 hours by default");
  assert.equal(to, notAfterMs);

  const texts = { leaf: leafPem, intermediate: intermediatePem, root: node.rootsPem };
  for (const purpose of ["sslserver", "sslclient"]) {
    const out = openssl(
      ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "@root", "-untrusted", "@intermediate", "@leaf"],
      texts,
    );
    assert.match(out, /: OK/);
  }
  const text = openssl(["x509", "-in", "@leaf", "-noout", "-text"], texts);
  assert.match(text, /Subject Alternative Name: critical\s+URI:spiffe/, "without a subject the SAN is critical");
  assert.match(text, /Key Usage: critical\s+Digital Signature\s/);
  assert.match(text, /Basic Constraints: critical\s+CA:FALSE/);
  const root = new X509Certificate(node.rootsPem);
  assert.equal(root.publicKey.asymmetricKeyDetails?.modulusLength, 4096);
  assert.ok(Date.parse(root.validTo) - began > 3649 * 86_400_000, "ten years");
  assert.match(openssl(["x509", "-in", "@intermediate", "-noout", "-text"], texts), /CA:TRUE, pathlen:0/);
});

test("[IDN-3] a certificate goes only to the node where the workload runs", async () => {
  const more = [
    pod("shop", "host-1", "", { account: "host", hostNetwork: true }),
    pod("shop", "done-1", "10.244.1.9", { account: "done", phase: "Succeeded" }),
    pod("shop", "far-1", "10.244.2.9", { account: "far", node: "n2" }),
  ].join("\n---\n");
  await using controller = await startController({ ...files, "b.yaml": more });
  const node = await joinedNode(controller, "n1");
  for (const account of ["host", "done", "far", "nobody"]) {
    const id = `spiffe://cluster.local/ns/shop/sa/${account}`;
    const { csrPem } = await makeCsr(id);
    await assert.rejects(
      node.issue(id, csrPem),
      refused(status.PERMISSION_DENIED, /no pod of shop\/.* runs on the node n1/),
      account,
    );
  }
  const metrics = (await controller.admin("GET", "/metrics")).text;
  assert.match(metrics, /fairlead_certificates_total\{kind="workload",outcome="refused"\} 4/);
});

test("[IDN-3] a pod that the controller learns of a moment later gets its certificate", async () => {
  await using controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const id = "spiffe://cluster.local/ns/shop/sa/late";
  const { csrPem } = await makeCsr(id);
  const asked = node.issue(id, csrPem);
  await new Promise((resolve) => setTimeout(resolve, 100));
  await controller.write("late.yaml", pod("shop", "late-1", "10.244.1.7", { account: "late" }));
  assert.equal(new X509Certificate((await asked).chainPem).subjectAltName, `URI:${id}`);
});

test("[IDN-3] [IDN-7] requests for other names, weak keys or broken signatures are refused", async () => {
  await using controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const ask = async (csr: Promise<{ csrPem: string }>, identity = web) => node.issue(identity, (await csr).csrPem);
  await ask(makeCsr(undefined)); // names nobody: the identity asked for is meant
  await ask(makeCsr(web, "rsa-2048"));
  await assert.rejects(
    ask(makeCsr("spiffe://cluster.local/ns/shop/sa/other")),
    refused(status.INVALID_ARGUMENT, /names something other than/),
  );
  await assert.rejects(
    ask(makeCsr(web, "p-256", ["bank.example"])),
    refused(status.INVALID_ARGUMENT, /names something other than/),
  );
  await assert.rejects(ask(makeCsr(web, "rsa-1024")), refused(status.INVALID_ARGUMENT, /1024 bits/));
  await assert.rejects(ask(makeCsr(web, "p-384")), refused(status.INVALID_ARGUMENT, /not P-256/));
  await assert.rejects(
    ask(makeCsr(web), "spiffe://other.example/ns/shop/sa/web"),
    refused(status.PERMISSION_DENIED, /not a workload of cluster.local/),
  );
  await assert.rejects(
    ask(makeCsr(web), "spiffe://cluster.local/node/n2"),
    refused(status.PERMISSION_DENIED, /not a workload/),
  );
  await assert.rejects(
    ask(makeCsr(web), "spiffe://cluster.local/ns/shop/sa/web/../root"),
    refused(status.INVALID_ARGUMENT, /identity/),
  );
  const { csrPem } = await makeCsr(web);
  const other = (await makeCsr(web)).csrPem;
  const bytes = (pem: string) => Buffer.from(pem.replace(/-----[^-]+-----/g, ""), "base64");
  // The signature of one request at the end of another.
  const forged = Buffer.concat([bytes(csrPem).subarray(0, -60), bytes(other).subarray(-60)]);
  const pem = `-----BEGIN CERTIFICATE REQUEST-----\n${forged.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
  await assert.rejects(node.issue(web, pem), refused(status.INVALID_ARGUMENT, /csr_pem/));
});

test("[IDN-3] a join token serves one key of one node once, and expires", async () => {
  await using controller = await startController(files);
  const keyed = await makeCsr("spiffe://cluster.local/node/n1");
  const token = await tokenFor(controller, "n1");
  const stored = readFileSync(joinPath(controller.state, "join-tokens.json"), "utf8");
  assert.ok(!stored.includes(token.slice(4)), "only its hash is stored");
  const forN2 = await makeCsr("spiffe://cluster.local/node/n2");
  await assert.rejects(join(controller, "n2", token, forN2), refused(status.PERMISSION_DENIED, /for another node/));
  await join(controller, "n1", token, keyed);
  await join(controller, "n1", token, keyed); // the answer was lost: the same key may ask again
  await assert.rejects(
    join(controller, "n1", token, await makeCsr("spiffe://cluster.local/node/n1")),
    refused(status.PERMISSION_DENIED, /used/),
  );
  await assert.rejects(join(controller, "n1", "fl1.wrong", keyed), refused(status.PERMISSION_DENIED, /not known/));
  const short = { FAIRLEAD_JOIN_TOKEN_TTL_MS: "3000" };
  await controller.restart(short);
  await assert.rejects(
    join(controller, "n1", token, await makeCsr("spiffe://cluster.local/node/n1")),
    refused(status.PERMISSION_DENIED, /used/),
  );
  const late = await tokenFor(controller, "n1");
  await controller.restart(short);
  await new Promise((resolve) => setTimeout(resolve, 3100));
  await assert.rejects(join(controller, "n1", late, keyed), refused(status.PERMISSION_DENIED, /expired/));
});

test("[IDN-3] a node renews its own credential and nobody else's", async () => {
  await using controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const fresh = await makeCsr("spiffe://cluster.local/node/n1");
  const { chainPem, rootsPem } = await node.renew("n1", fresh.csrPem);
  await nodeWith(controller, "n1", { chainPem, keyPem: fresh.keyPem }, rootsPem).issue(
    web,
    (await makeCsr(web)).csrPem,
  );
  const other = await makeCsr("spiffe://cluster.local/node/n2");
  await assert.rejects(node.renew("n2", other.csrPem), refused(status.PERMISSION_DENIED, /another node/));
  await assert.rejects(node.renew("n1", other.csrPem), refused(status.INVALID_ARGUMENT, /names something other/));
  const stranger = nodeWith(controller, "n1", undefined as never, node.rootsPem);
  await assert.rejects(stranger.renew("n1", fresh.csrPem), refused(status.UNAUTHENTICATED, /join with a token/));
});

test("[IDN-9] one environment's credential is nothing in another, even of the same trust domain", async () => {
  await using production = await startController(files, ownCa);
  await using staging = await startController(files);
  const node = await joinedNode(staging, "n1");
  const impostor = nodeWith(production, "n1", node.credential, await rootsOf(production));
  await assert.rejects(
    impostor.issue(web, (await makeCsr(web)).csrPem),
    refused(status.UNAUTHENTICATED, /no valid node credential/),
  );
});

test("[IDN-1] [SEC-6] keys on disk are their owner's alone", async () => {
  await using controller = await startController(files, ownCa);
  assert.equal(statSync(controller.state).mode & 0o777, 0o700);
  const names = readdirSync(controller.state);
  assert.ok(names.includes("root-1.key") && names.includes("intermediate-1.key"));
  for (const name of names) assert.equal(statSync(joinPath(controller.state, name)).mode & 0o777, 0o600, name);
  assert.equal(statSync(controller.socket).mode & 0o777, 0o600);
});

test("[IDN-1] the root goes out as PKCS#12 under a password, and openssl reads it", async () => {
  await using controller = await startController(files);
  assert.equal((await controller.admin("POST", "/v1/ca/export", { password: "short" })).status, 400);
  const { json } = await controller.admin("POST", "/v1/ca/export", { password: "correct horse battery" });
  const der = Buffer.from(json.pkcs12, "base64");
  const back = importPkcs12(der, "correct horse battery");
  assert.ok(back.ok);
  assert.equal(
    new X509Certificate(back.value.certPem).fingerprint256,
    new X509Certificate(await rootsOf(controller)).fingerprint256,
  );
  assert.equal(importPkcs12(der, "wrong password").ok, false);
  const dir = mkdtempSync(joinPath(tmpdir(), "fairlead-p12-"));
  try {
    writeFileSync(joinPath(dir, "root.p12"), der);
    const out = execFileSync(
      "openssl",
      ["pkcs12", "-in", joinPath(dir, "root.p12"), "-passin", "pass:correct horse battery", "-nodes"],
      { encoding: "utf8" },
    );
    assert.match(out, /BEGIN CERTIFICATE/);
    assert.match(out, /PRIVATE KEY/);
    // A second controller on that very file.
    writeFileSync(joinPath(dir, "password"), "correct horse battery\n", { mode: 0o600 });
    const p12 = {
      ...ownCa,
      FAIRLEAD_CA_ROOT_PKCS12_FILE: joinPath(dir, "root.p12"),
      FAIRLEAD_CA_ROOT_PASSWORD_FILE: joinPath(dir, "password"),
    };
    await using imported = await startController(files, p12);
    assert.equal((await rootsOf(imported)).trim(), (await rootsOf(controller)).trim());
    // And one on the same root as PEM.
    writeFileSync(joinPath(dir, "root.crt"), back.value.certPem);
    writeFileSync(joinPath(dir, "root.key"), back.value.keyPem, { mode: 0o600 });
    const env = {
      FAIRLEAD_CA_ROOT_CERT_FILE: joinPath(dir, "root.crt"),
      FAIRLEAD_CA_ROOT_KEY_FILE: joinPath(dir, "root.key"),
    };
    await using second = await startController(files, env);
    assert.equal((await rootsOf(second)).trim(), (await rootsOf(controller)).trim());
    await (await joinedNode(second, "n1")).issue(web, (await makeCsr(web)).csrPem);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("[IDN-1] an intermediate of the operator's own making is used, without the root's key", async () => {
  const dir = mkdtempSync(joinPath(tmpdir(), "fairlead-ca-"));
  const at = (name: string) => joinPath(dir, name);
  const run = (...args: string[]) => execFileSync("openssl", args, { stdio: "ignore" });
  try {
    writeFileSync(at("ext"), "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n");
    run(
      "req",
      "-x509",
      "-newkey",
      "rsa:2048",
      "-nodes",
      "-keyout",
      at("root.key"),
      "-out",
      at("root.crt"),
      "-subj",
      "/CN=corp",
      "-days",
      "30",
    );
    run(
      "req",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-keyout",
      at("int.key"),
      "-out",
      at("int.csr"),
      "-subj",
      "/CN=corp mesh",
    );
    run(
      "x509",
      "-req",
      "-in",
      at("int.csr"),
      "-CA",
      at("root.crt"),
      "-CAkey",
      at("root.key"),
      "-CAcreateserial",
      "-out",
      at("int.crt"),
      "-days",
      "20",
      "-extfile",
      at("ext"),
    );
    const env = {
      ...ownCa,
      FAIRLEAD_CA_ROOT_CERT_FILE: at("root.crt"),
      FAIRLEAD_CA_INTERMEDIATE_CERT_FILE: at("int.crt"),
      FAIRLEAD_CA_INTERMEDIATE_KEY_FILE: at("int.key"),
    };
    await using controller = await startController(files, env);
    const node = await joinedNode(controller, "n1");
    const { chainPem } = await node.issue(web, (await makeCsr(web)).csrPem);
    assert.match(splitChain(chainPem)[1] ?? "", /BEGIN/);
    assert.equal(new X509Certificate(splitChain(chainPem)[1] ?? "").subject, "CN=corp mesh");
    assert.ok(!readdirSync(controller.state).includes("root-1.key"));
    // A key of somebody else's is a clear line at the start.
    const wrong = { ...env, FAIRLEAD_CA_INTERMEDIATE_KEY_FILE: at("root.key") };
    await assert.rejects(
      startController(files, wrong),
      /exit 1: fairlead controller: the intermediate certificate cannot be used: the key does not belong/,
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
