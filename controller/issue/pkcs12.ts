// The root as PKCS#12 (certificate and key under a password), for backup and for moving it between controllers.
import { createPrivateKey } from "node:crypto";
import forge from "node-forge";
import { err, ok, type Result } from "../../agent/base/result.ts";

export const minPasswordLength = 12;
const maxBytes = 65_536;

/** DER of a PKCS#12 file, AES-256 with a MAC. RSA keys only, which our roots are. */
export function exportPkcs12(certPem: string, keyPem: string, password: string): Result<Uint8Array, string> {
  if (password.length < minPasswordLength) return err(`the password has fewer than ${minPasswordLength} characters`);
  try {
    const key = forge.pki.privateKeyFromPem(keyPem);
    const certificate = forge.pki.certificateFromPem(certPem);
    const options = { algorithm: "aes256", friendlyName: "fairlead-root", count: 100_000 } as const;
    const asn1 = forge.pkcs12.toPkcs12Asn1(key, [certificate], password, options);
    return ok(Uint8Array.from(Buffer.from(forge.asn1.toDer(asn1).getBytes(), "binary")));
  } catch {
    // node-forge reads RSA only; a root that the operator supplied may be another.
    return err("the root is not an RSA key: export it with openssl pkcs12 -export");
  }
}

/** Certificate and key (PEM) out of a PKCS#12 file. Never throws. */
export function importPkcs12(
  der: Uint8Array,
  password: string,
): Result<{ readonly certPem: string; readonly keyPem: string }, string> {
  if (der.length > maxBytes) return err(`the file is over ${maxBytes} bytes`);
  try {
    const asn1 = forge.asn1.fromDer(forge.util.createBuffer(Buffer.from(der).toString("binary")));
    const p12 = forge.pkcs12.pkcs12FromAsn1(asn1, password);
    const { certBag = "", pkcs8ShroudedKeyBag = "" } = forge.pki.oids;
    const certificate = p12.getBags({ bagType: certBag })[certBag]?.[0]?.cert;
    const key = p12.getBags({ bagType: pkcs8ShroudedKeyBag })[pkcs8ShroudedKeyBag]?.[0]?.key;
    if (!certificate || !key) return err("the file holds no certificate with its key");
    const keyPem = createPrivateKey(forge.pki.privateKeyToPem(key)).export({ type: "pkcs8", format: "pem" }) as string;
    return ok({ certPem: forge.pki.certificateToPem(certificate).replaceAll("\r\n", "\n"), keyPem });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return err(
      /password|MAC/i.test(message)
        ? "the password is wrong or the file was changed"
        : `not a PKCS#12 file: ${message.slice(0, 120)}`,
    );
  }
}
