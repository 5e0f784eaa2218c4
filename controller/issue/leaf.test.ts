import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { bits, elements, oid, only, sequence, tag, time, write } from "./der.ts";
import { type LeafPlan, signLeaf } from "./leaf.ts";
import { loadSigner, makeIntermediate, makeKey, makeRoot, publicKeyOf } from "./pki.ts";
import { x509 } from "./x509.ts";

test("[IDN-2] a leaf is what it was planned to be, to two readers that we did not write", async () => {
  const nowMs = Date.parse("2026-05-06T07:08:09Z");
  const root = await loadSigner(await makeRoot("cluster.local", nowMs));
  const issuer = await loadSigner(await makeIntermediate(root, "cluster.local", nowMs));
  const publicKey = await publicKeyOf(await makeKey("p-256"));
  const plan: LeafPlan = {
    publicKey,
    uri: "spiffe://cluster.local/ns/shop/sa/web",
    dns: ["fairlead-controller", "localhost"],
    ips: ["10.1.2.3", "fd00::1"],
    notBeforeMs: nowMs - 300_000,
    notAfterMs: nowMs + 86_400_000,
  };
  for (const signer of [issuer, root]) {
    const pem = await signLeaf(signer, plan);
    const node = new X509Certificate(pem);
    assert.ok(node.verify(signer.certificate.publicKey));
    assert.ok(node.checkIssued(signer.certificate));
    assert.equal(
      node.subjectAltName,
      `URI:${plan.uri}, DNS:fairlead-controller, DNS:localhost, IP Address:10.1.2.3, IP Address:FD00:0:0:0:0:0:0:1`,
    );
    assert.deepEqual(node.keyUsage, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
    assert.equal(node.ca, false);
    assert.deepEqual([Date.parse(node.validFrom), Date.parse(node.validTo)], [plan.notBeforeMs, plan.notAfterMs]);
    assert.match(node.serialNumber, /^[4-7][0-9A-F]{31}$/);
    const read = new x509.X509Certificate(pem);
    assert.deepEqual(new Uint8Array(read.publicKey.rawData), publicKey);
    assert.equal(read.subject, "");
    assert.equal(read.getExtension(x509.SubjectAlternativeNameExtension)?.critical, true);
    assert.equal(read.getExtension(x509.KeyUsagesExtension)?.usages, x509.KeyUsageFlags.digitalSignature);
    assert.equal(
      read.getExtension(x509.AuthorityKeyIdentifierExtension)?.keyId,
      signer.parsed.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId,
    );
    const own = await x509.SubjectKeyIdentifierExtension.create(read.publicKey);
    assert.equal(read.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId, own.keyId);
  }
  await assert.rejects(signLeaf(issuer, { ...plan, uri: "spiffe://a b" }), /cannot be a name/);
  await assert.rejects(signLeaf(issuer, { ...plan, ips: ["ten"] }), /is no address/);
});

test("DER that is written reads back the same, and whatever is not DER is refused", () => {
  const values = fc.array(fc.tuple(fc.constantFrom(0x02, 0x04, 0x30, 0x86), fc.uint8Array({ maxLength: 300 })));
  fc.assert(
    fc.property(values, (list) => {
      const parts = list.map(([first, bytes]) => write(first, bytes));
      const read = elements(only(sequence(...parts), tag.sequence).value);
      assert.deepEqual(
        read.map((e) => [e.tag, new Uint8Array(e.value)]),
        list,
      );
      assert.deepEqual(Buffer.concat(read.map((e) => e.whole)), Buffer.concat(parts));
    }),
  );
  const long = write(0x04, Buffer.alloc(70_000));
  assert.equal(only(long, 0x04).value.length, 70_000);
  for (const hex of [
    "30",
    "3080",
    "308105",
    "30810100",
    "3082000100",
    "3005aa",
    "1f8101",
    "300000",
    "",
    "30840000000100",
  ])
    assert.throws(() => only(Buffer.from(hex, "hex"), tag.sequence), /./, hex);
  assert.throws(() => bits(only(Buffer.from("03020102", "hex"), tag.bitString)));
  assert.equal(oid("1.2.840.113549.1.1.11").toString("hex"), "06092a864886f70d01010b");
  assert.equal(time(Date.parse("2049-12-31T23:59:59.999Z")).toString("latin1").slice(2), "491231235959Z");
  assert.equal(time(Date.parse("2050-01-01T00:00:00Z")).toString("latin1").slice(2), "20500101000000Z");
});
