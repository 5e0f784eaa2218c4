import assert from "node:assert/strict";
import { BlockList, isIP } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { canonicalIp, cidrContains, formatCidr, formatEndpoint, formatIp, isV4, parseCidr, parseIp } from "./ip.ts";

test("[INT-5] an address has one canonical text", () => {
  assert.equal(canonicalIp("10.244.1.5"), "10.244.1.5");
  assert.equal(canonicalIp("::ffff:10.244.1.5"), "10.244.1.5");
  assert.equal(canonicalIp("FD00:0244:0001:0:0:0:0:0005"), "fd00:244:1::5");
  assert.equal(canonicalIp("::"), "::");
  assert.equal(canonicalIp("1:0:0:2:0:0:0:3"), "1:0:0:2::3");
  assert.equal(canonicalIp("1:2:3:4:5:6:0:8"), "1:2:3:4:5:6:0:8");
  for (const bad of [
    "",
    "1.2.3",
    "01.2.3.4",
    "256.1.1.1",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "::1.2.3.4:5",
    "fe80::1%eth0",
    " 1.2.3.4",
    "g::",
  ]) {
    assert.equal(canonicalIp(bad), undefined, bad);
  }
});

test("16 bytes to text and back is the identity", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      assert.deepEqual(parseIp(formatIp(bytes)), new Uint8Array(bytes));
      assert.equal(isIP(formatIp(bytes)), isV4(bytes) ? 4 : 6);
    }),
  );
});

test("the parser accepts what the platform accepts", () => {
  const piece = fc.constantFrom("0", "1", "ff", "ffff", "10", "255", "256", ":", "::", ".", "a");
  fc.assert(
    fc.property(
      fc.oneof(
        fc.ipV4(),
        fc.ipV6(),
        fc.array(piece, { maxLength: 17 }).map((p) => p.join("")),
      ),
      (text) => {
        assert.equal(parseIp(text) !== undefined, isIP(text) !== 0, text);
      },
    ),
    { numRuns: 2000 },
  );
});

test("CIDR membership agrees with the platform's block list", () => {
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.integer({ min: 0, max: 128 }),
      fc.ipV6(),
      fc.ipV6(),
      fc.ipV4(),
      fc.ipV4(),
      (six, bits, a6, b6, a4, b4) => {
        const [a, b, prefix] = six ? [a6, b6, bits] : [a4, b4, bits % 33];
        const cidr = parseCidr(`${a}/${prefix}`);
        const address = parseIp(b);
        assert.ok(cidr !== undefined && address !== undefined);
        if (isV4(address) !== (cidr.family === 4)) return;
        const list = new BlockList();
        list.addSubnet(a, prefix, six ? "ipv6" : "ipv4");
        assert.equal(cidrContains(cidr, address), list.check(b, six ? "ipv6" : "ipv4"));
        assert.deepEqual(parseCidr(formatCidr(cidr)), cidr);
      },
    ),
  );
});

test("blocks that are not blocks are refused", () => {
  for (const bad of ["10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8", "/8", "10.0.0.0/08"]) {
    assert.equal(parseCidr(bad), undefined, bad);
  }
  assert.equal(formatEndpoint("fd00::1", 80), "[fd00::1]:80");
  assert.equal(formatEndpoint("1.2.3.4", 80), "1.2.3.4:80");
});
