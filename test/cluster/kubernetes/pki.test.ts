import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import { Authority, tokenKeys } from "./pki.ts";

const nowMs = Date.UTC(2026, 0, 1);

test("a part's certificate chains to the authority and says who it is and where it serves", async () => {
  const authority = await Authority.make("cluster", nowMs);
  const root = new X509Certificate(authority.own.certPem);
  assert.ok(root.ca && root.verify(root.publicKey) && root.checkPrivateKey(createPrivateKey(authority.own.keyPem)));
  const issued = await authority.issue({
    commonName: "system:node:n1",
    group: "system:nodes",
    names: ["n1"],
    addresses: ["10.110.255.11"],
  });
  const certificate = new X509Certificate(issued.certPem);
  assert.ok(certificate.checkIssued(root) && certificate.verify(root.publicKey));
  assert.ok(certificate.checkPrivateKey(createPrivateKey(issued.keyPem)));
  assert.equal(certificate.subject, "O=system:nodes\nCN=system:node:n1");
  assert.equal(certificate.subjectAltName, "DNS:n1, IP Address:10.110.255.11");
  assert.deepEqual([...(certificate.keyUsage ?? [])].sort(), ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  assert.ok(Date.parse(certificate.validFrom) < nowMs);
  assert.ok(Date.parse(certificate.validTo) <= Date.parse(root.validTo));
});

test("who has no name to serve under cannot serve", async () => {
  const authority = await Authority.make("cluster", nowMs);
  const issued = await authority.issue({ commonName: "admin", group: "system:masters" });
  const certificate = new X509Certificate(issued.certPem);
  assert.deepEqual(certificate.keyUsage, ["1.3.6.1.5.5.7.3.2"]);
  assert.equal(certificate.subjectAltName, undefined);
});

test("the key of tokens and what they are checked with belong together", () => {
  const { privatePem, publicPem } = tokenKeys();
  const derived = createPublicKey(createPrivateKey(privatePem)).export({ type: "spki", format: "pem" });
  assert.equal(derived, publicPem);
});
