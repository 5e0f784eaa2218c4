// The leaf certificate of an SVID, written out as DER and signed: RFC 5280 §4.1, with the profile of SPIFFE X.509-SVID §4.
import { hash, type KeyObject, randomFillSync, sign as signBytes } from "node:crypto";
import { promisify } from "node:util";
import { isV4, parseIp } from "../../agent/base/ip.ts";
import { bitString, bits, context, elements, octets, oid, only, sequence, tag, time, write } from "./der.ts";

/** What of an authority a leaf is signed with. */
export interface LeafIssuer {
  readonly privateKey: KeyObject;
  readonly algorithm: { readonly name: string; readonly hash: string };
  /** Its name, DER, and the identifier of its key. */
  readonly subjectDer: Uint8Array;
  readonly keyId: Uint8Array;
}
export interface LeafPlan {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  readonly uri: string;
  /** Further names, for servers. */
  readonly dns?: readonly string[];
  readonly ips?: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

const signInBackground = promisify(signBytes);
const yes = write(tag.boolean, Buffer.from([0xff]));
const extension = (id: Buffer, isCritical: boolean, value: Buffer): Buffer =>
  sequence(id, ...(isCritical ? [yes] : []), octets(value));
const alternativeNames = oid("2.5.29.17");
const subjectKeyId = oid("2.5.29.14");
const authorityKeyId = oid("2.5.29.35");
const version3 = write(context(0, true), write(tag.integer, Buffer.from([2])));
/** No subject, so the alternative names are critical (RFC 5280 §4.2.1.6). */
const noSubject = sequence();
/** basicConstraints CA:FALSE; keyUsage digitalSignature; extKeyUsage serverAuth, clientAuth. */
const fixed = [
  extension(oid("2.5.29.19"), true, sequence()),
  extension(oid("2.5.29.15"), true, write(tag.bitString, Buffer.from([7, 0x80]))),
  extension(oid("2.5.29.37"), false, sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
];
const algorithms: Readonly<Record<string, Buffer>> = {
  "ECDSA SHA-256": sequence(oid("1.2.840.10045.4.3.2")),
  "ECDSA SHA-384": sequence(oid("1.2.840.10045.4.3.3")),
  "RSASSA-PKCS1-v1_5 SHA-256": sequence(oid("1.2.840.113549.1.1.11"), write(0x05)),
};

/** Random bytes ahead of their use: asking for a few costs as much as asking for many. Serial numbers are no secret. */
const ahead = Buffer.alloc(4096);
let used = ahead.length;

/** Positive, 127 random bits (CA/Browser forum wants 64). */
export function serialBytes(): Buffer {
  if (used === ahead.length) {
    randomFillSync(ahead);
    used = 0;
  }
  const bytes = Buffer.from(ahead.subarray(used, used + 16));
  used += 16;
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes;
}

/** Identifier of a key: SHA-1 of its bits (RFC 5280 §4.2.1.2, method 1). `spki` is DER. Throws DerError. */
export function keyIdentifier(spki: Uint8Array): Buffer {
  const [, key] = elements(only(Buffer.from(spki), tag.sequence).value);
  return hash("sha1", key === undefined ? Buffer.alloc(0) : bits(key), "buffer");
}

/** PEM. Throws when a name cannot be written. */
export async function signLeaf(issuer: LeafIssuer, plan: LeafPlan): Promise<string> {
  const { name, hash: digestName } = issuer.algorithm;
  const algorithm = algorithms[`${name} ${digestName}`];
  if (algorithm === undefined) throw new Error(`no certificate can be signed with ${name} and ${digestName}`);
  const body = sequence(
    version3,
    write(tag.integer, serialBytes()),
    algorithm,
    issuer.subjectDer,
    sequence(time(plan.notBeforeMs), time(plan.notAfterMs)),
    noSubject,
    plan.publicKey,
    write(
      context(3, true),
      sequence(
        ...fixed,
        extension(alternativeNames, true, sequence(...namesOf(plan))),
        extension(subjectKeyId, false, octets(keyIdentifier(plan.publicKey))),
        extension(authorityKeyId, false, sequence(write(context(0, false), issuer.keyId))),
      ),
    ),
  );
  const digest = digestName.replace("-", "").toLowerCase();
  // On a curve it takes microseconds; with RSA it would keep everybody waiting.
  const signature =
    name === "ECDSA"
      ? signBytes(digest, body, issuer.privateKey)
      : await signInBackground(digest, body, issuer.privateKey);
  const certificate = sequence(body, algorithm, bitString(signature)).toString("base64");
  let pem = "-----BEGIN CERTIFICATE-----\n";
  for (let at = 0; at < certificate.length; at += 64) pem += `${certificate.slice(at, at + 64)}\n`;
  return `${pem}-----END CERTIFICATE-----\n`;
}

function namesOf(plan: LeafPlan): readonly Buffer[] {
  const ascii = (text: string): Buffer => {
    if (!/^[\x21-\x7e]+$/.test(text)) throw new Error(`"${text.slice(0, 80)}" cannot be a name in a certificate`);
    return Buffer.from(text);
  };
  return [
    write(context(6, false), ascii(plan.uri)),
    ...(plan.dns ?? []).map((name) => write(context(2, false), ascii(name))),
    ...(plan.ips ?? []).map((ip) => {
      const bytes = parseIp(ip);
      if (bytes === undefined) throw new Error(`"${ip}" is no address`);
      return write(context(7, false), isV4(bytes) ? bytes.subarray(12) : bytes);
    }),
  ];
}
