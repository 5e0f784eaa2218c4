// Checks a certificate request (PKCS#10, RFC 2986): size, form, signature, key, names. Never throws, whatever the bytes.
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { promisify } from "node:util";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { bitString, bits, context, type Element, elements, expect, oid, only, sequence, tag } from "./der.ts";

export interface CheckedCsr {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
}
export const maxCsrBytes = 16_384;
const sanOid = oid("2.5.29.17");
const extensionRequestOid = oid("1.2.840.113549.1.9.14");
const uriTag = context(6, false);
/** What SubjectPublicKeyInfo of a P-256 key begins with, up to the point (RFC 5480 §2): asking the library for a key's details costs more. */
const p256 = sequence(
  sequence(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")),
  bitString(Buffer.alloc(65)),
).subarray(0, -65);
const verifyInBackground = promisify(verify);
/** Signature algorithm -> digest, and the sort of key that it is for. */
const algorithms: readonly (readonly [Buffer, string, "ec" | "rsa"])[] = [
  [oid("1.2.840.10045.4.3.2"), "sha256", "ec"],
  [oid("1.2.840.10045.4.3.3"), "sha384", "ec"],
  [oid("1.2.840.10045.4.3.4"), "sha512", "ec"],
  [oid("1.2.840.113549.1.1.11"), "sha256", "rsa"],
  [oid("1.2.840.113549.1.1.12"), "sha384", "rsa"],
  [oid("1.2.840.113549.1.1.13"), "sha512", "rsa"],
];

/** Accepts a request by its own key that names nobody but `identity` (or nobody: then the identity asked for is meant). */
export async function checkCsr(pem: string, identity: string): Promise<Result<CheckedCsr, string>> {
  if (pem.length > maxCsrBytes) return err(`the request is over ${maxCsrBytes} bytes`);
  const blocks = pem.match(/-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----/g) ?? [];
  if (blocks.length !== 1) return err("not exactly one PEM certificate request");
  try {
    const body =
      /-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END (?:NEW )?CERTIFICATE REQUEST-----/.exec(
        pem,
      )?.[1];
    if (body === undefined) return err("not a PEM certificate request");
    const [info, algorithm, signature] = elements(only(Buffer.from(body, "base64"), tag.sequence).value);
    const [version, subject, key, attributes] = elements(expect(info, tag.sequence).value);
    expect(version, tag.integer);
    expect(subject, tag.sequence);
    const publicKey = new Uint8Array(expect(key, tag.sequence).whole);
    // The key first: it bounds what checking the signature may cost.
    const read = createPublicKey({ key: Buffer.from(publicKey), format: "der", type: "spki" });
    const wrongKey = checkKey(read, publicKey);
    if (wrongKey !== undefined) return err(wrongKey);
    const wrongName = checkNames(attributes, identity);
    if (wrongName !== undefined) return err(wrongName);
    const [id] = elements(expect(algorithm, tag.sequence).value);
    const [, digest, sort] = algorithms.find(([known]) => id?.whole.equals(known)) ?? [];
    if (digest === undefined) return err("the request is signed with an algorithm that is not taken");
    const proof = bits(expect(signature, tag.bitString));
    const isOwn = sort === read.asymmetricKeyType && (await isSigned(digest, expect(info, tag.sequence), read, proof));
    return isOwn ? ok({ publicKey }) : err("the request is not signed by its own key");
  } catch (error) {
    return err(`not a certificate request: ${error instanceof Error ? error.message.slice(0, 120) : "unreadable"}`);
  }
}

/** A large RSA key takes its time, and not everybody's. */
const isSigned = (digest: string, info: Element, key: KeyObject, proof: Buffer): boolean | Promise<boolean> =>
  key.asymmetricKeyType === "ec"
    ? verify(digest, info.whole, key, proof)
    : verifyInBackground(digest, info.whole, key, proof);

function checkKey(key: KeyObject, der: Uint8Array): string | undefined {
  if (p256.equals(der.subarray(0, p256.length))) return undefined;
  const details = key.asymmetricKeyDetails;
  if (key.asymmetricKeyType === "ec") {
    return details?.namedCurve === "prime256v1" ? undefined : `the curve ${details?.namedCurve} is not P-256`;
  }
  if (key.asymmetricKeyType !== "rsa") return `a key of type ${key.asymmetricKeyType} is neither P-256 nor RSA`;
  const length = details?.modulusLength ?? 0;
  if (length < 2048 || length > 8192) return `an RSA key of ${length} bits is not within 2048 to 8192`;
  const exponent = details?.publicExponent ?? 0n;
  return exponent >= 65537n && exponent < 2n ** 32n ? undefined : "the RSA exponent is not within 65537 to 2^32";
}

function checkNames(attributes: Element | undefined, identity: string): string | undefined {
  const sans = extensionsOf(attributes).filter(([id]) => id.equals(sanOid));
  if (sans.length > 1) return "the request has several subject alternative names extensions";
  for (const [, value] of sans) {
    const names = elements(only(value, tag.sequence).value);
    const others = names.filter((name) => name.tag !== uriTag || name.value.toString("latin1") !== identity);
    if (others.length > 0 || names.length > 1) return `the request names something other than ${identity}`;
  }
  return undefined;
}

/** Identifier (with tag and length) and value of each extension that is asked for. Throws DerError. */
function extensionsOf(attributes: Element | undefined): readonly (readonly [Buffer, Buffer])[] {
  if (attributes === undefined) return [];
  return elements(expect(attributes, context(0, true)).value).flatMap((attribute) => {
    const [id, values] = elements(expect(attribute, tag.sequence).value);
    if (!expect(id, tag.oid).whole.equals(extensionRequestOid)) return [];
    return elements(expect(values, tag.set).value).flatMap((list) =>
      elements(expect(list, tag.sequence).value).map((one) => {
        const parts = elements(expect(one, tag.sequence).value);
        return [expect(parts[0], tag.oid).whole, expect(parts.at(-1), tag.octetString).value] as const;
      }),
    );
  });
}
