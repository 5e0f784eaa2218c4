// Key pairs and certificate requests: P-256, made here and never sent anywhere (IDN-3).
import "reflect-metadata";
import { createPrivateKey } from "node:crypto";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension, X509Certificate } from "@peculiar/x509";

export interface KeyAndRequest {
  /** PKCS#8 PEM. */
  readonly keyPem: string;
  /** PKCS#10 PEM with the identity as its only SAN (URI). */
  readonly csrPem: string;
}

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export async function makeKeyAndRequest(identity: string): Promise<KeyAndRequest> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const request = await Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: algorithm,
    extensions: [new SubjectAlternativeNameExtension([{ type: "url", value: identity }])],
  });
  const pkcs8 = Buffer.from(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  const keyPem = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" }).export({
    format: "pem",
    type: "pkcs8",
  });
  return { keyPem: keyPem.toString(), csrPem: request.toString("pem") };
}

/** Validity of the first certificate of a PEM chain, Unix ms. Throws if there is none. */
export function validityOf(chainPem: string): { readonly notBeforeMs: number; readonly notAfterMs: number } {
  const leaf = new X509Certificate(chainPem.slice(0, chainPem.indexOf("-----END CERTIFICATE-----") + 25));
  return { notBeforeMs: leaf.notBefore.getTime(), notAfterMs: leaf.notAfter.getTime() };
}
