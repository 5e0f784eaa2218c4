// Checks a certificate request: size, form, signature, key, names. Never throws, whatever the bytes.
import { createPublicKey } from "node:crypto";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { x509 } from "./x509.ts";

export interface CheckedCsr {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
}
export const maxCsrBytes = 16_384;
const sanOid = "2.5.29.17";

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
    const csr = new x509.Pkcs10CertificateRequest(Buffer.from(body, "base64"));
    // The key first: it bounds what checking the signature may cost.
    const publicKey = new Uint8Array(csr.publicKey.rawData);
    const wrongKey = checkKey(publicKey);
    if (wrongKey !== undefined) return err(wrongKey);
    const wrongName = checkNames(csr, identity);
    if (wrongName !== undefined) return err(wrongName);
    if (!(await csr.verify())) return err("the request is not signed by its own key");
    return ok({ publicKey });
  } catch (error) {
    return err(`not a certificate request: ${error instanceof Error ? error.message.slice(0, 120) : "unreadable"}`);
  }
}

function checkKey(spki: Uint8Array): string | undefined {
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const details = key.asymmetricKeyDetails;
  if (key.asymmetricKeyType === "ec") {
    return details?.namedCurve === "prime256v1" ? undefined : `the curve ${details?.namedCurve} is not P-256`;
  }
  if (key.asymmetricKeyType !== "rsa") return `a key of type ${key.asymmetricKeyType} is neither P-256 nor RSA`;
  const bits = details?.modulusLength ?? 0;
  if (bits < 2048 || bits > 8192) return `an RSA key of ${bits} bits is not within 2048 to 8192`;
  const exponent = details?.publicExponent ?? 0n;
  return exponent >= 65537n && exponent < 2n ** 32n ? undefined : "the RSA exponent is not within 65537 to 2^32";
}

function checkNames(csr: x509.Pkcs10CertificateRequest, identity: string): string | undefined {
  const sans = csr.extensions.filter((extension) => extension.type === sanOid);
  if (sans.length > 1) return "the request has several subject alternative names extensions";
  for (const extension of sans) {
    const names = new x509.SubjectAlternativeNameExtension(extension.rawData).names.items;
    const others = names.filter((name) => name.type !== "url" || name.value !== identity);
    if (others.length > 0 || names.length > 1) return `the request names something other than ${identity}`;
  }
  return undefined;
}
