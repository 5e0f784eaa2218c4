// Keys and certificates: root, intermediate, leaf. No files, no policy; what may be signed is decided in csr.ts and authority.ts.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  randomBytes,
  webcrypto,
  X509Certificate,
} from "node:crypto";
import { promisify } from "node:util";
import { keyIdentifier, serialBytes } from "./leaf.ts";
import { x509 } from "./x509.ts";

const makeKeyPair = promisify(generateKeyPair);
/** Everything that signs: its certificate, and its key as PEM (PKCS#8). */
export interface Issuer {
  readonly certPem: string;
  readonly keyPem: string;
}
export interface Signer {
  readonly certificate: X509Certificate;
  readonly certPem: string;
  readonly notAfterMs: number;
  readonly parsed: x509.X509Certificate;
  readonly key: CryptoKey;
  readonly privateKey: KeyObject;
  readonly algorithm: SigningAlgorithm;
  /** Name of the issuer in what it signs, DER, and the identifier of its key there. */
  readonly subjectDer: Uint8Array;
  readonly keyId: Uint8Array;
}
type SigningAlgorithm = { readonly name: string; readonly hash: string };

export const clockSkewMs = 300_000;
export const dayMs = 86_400_000;
export const rootLifeMs = 3650 * dayMs;
export const intermediateLifeMs = 365 * dayMs;

/** PKCS#8 PEM; RSA 4096 takes a second or two, off the main thread. */
export async function makeKey(kind: "rsa-4096" | "p-256"): Promise<string> {
  const pair =
    kind === "rsa-4096"
      ? await makeKeyPair("rsa", { modulusLength: 4096, publicExponent: 65537 })
      : await makeKeyPair("ec", { namedCurve: "P-256" });
  return (pair.privateKey as KeyObject).export({ type: "pkcs8", format: "pem" }) as string;
}

function algorithmOf(key: KeyObject): { readonly import: object; readonly sign: SigningAlgorithm } {
  if (key.asymmetricKeyType === "rsa") {
    const name = "RSASSA-PKCS1-v1_5";
    return { import: { name, hash: "SHA-256" }, sign: { name, hash: "SHA-256" } };
  }
  const curve = key.asymmetricKeyDetails?.namedCurve;
  const named = curve === "prime256v1" ? "P-256" : curve === "secp384r1" ? "P-384" : undefined;
  if (key.asymmetricKeyType !== "ec" || named === undefined) {
    throw new Error(`the key is of type ${key.asymmetricKeyType} ${curve ?? ""}; use RSA, P-256 or P-384`);
  }
  return {
    import: { name: "ECDSA", namedCurve: named },
    sign: { name: "ECDSA", hash: named === "P-256" ? "SHA-256" : "SHA-384" },
  };
}

/** Loads a signer; throws with the reason when key and certificate do not belong together. */
export async function loadSigner(issuer: Issuer): Promise<Signer> {
  const certificate = new X509Certificate(issuer.certPem);
  const key = createPrivateKey(issuer.keyPem);
  if (!certificate.checkPrivateKey(key)) throw new Error("the key does not belong to the certificate");
  if (!certificate.ca) throw new Error("the certificate is not one of an authority (CA:TRUE is missing)");
  const algorithm = algorithmOf(key);
  const der = key.export({ type: "pkcs8", format: "der" });
  const imported = await webcrypto.subtle.importKey(
    "pkcs8",
    der,
    algorithm.import as webcrypto.EcKeyImportParams,
    false,
    ["sign"],
  );
  const parsed = new x509.X509Certificate(certificate.raw);
  const own = parsed.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId;
  return {
    certificate,
    certPem: certificate.toString(),
    notAfterMs: Date.parse(certificate.validTo),
    parsed,
    key: imported as unknown as CryptoKey,
    privateKey: key,
    algorithm: algorithm.sign,
    subjectDer: new Uint8Array(parsed.subjectName.toArrayBuffer()),
    // What its own certificate says: verifiers compare the two.
    keyId: own === undefined ? keyIdentifier(new Uint8Array(parsed.publicKey.rawData)) : Buffer.from(own, "hex"),
  };
}

const keyCertSign = x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign;
type Extension = x509.Extension;

async function publicOf(keyPem: string): Promise<x509.PublicKey> {
  return new x509.PublicKey(createPublicKey(createPrivateKey(keyPem)).export({ type: "spki", format: "der" }));
}

interface Plan {
  readonly subject: string;
  readonly publicKey: x509.PublicKey;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly extensions: readonly Extension[];
}

async function sign(
  plan: Plan,
  signer: Pick<Signer, "key" | "algorithm">,
  issuer: x509.X509Certificate | undefined,
): Promise<string> {
  const keyIds: Extension[] = [await x509.SubjectKeyIdentifierExtension.create(plan.publicKey)];
  if (issuer !== undefined) keyIds.push(await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey));
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialBytes().toString("hex"),
    subject: plan.subject,
    issuer: issuer?.subject ?? plan.subject,
    notBefore: new Date(plan.notBeforeMs),
    notAfter: new Date(plan.notAfterMs),
    publicKey: plan.publicKey,
    signingKey: signer.key,
    signingAlgorithm: signer.algorithm,
    extensions: [...plan.extensions, ...keyIds],
  });
  return `${certificate.toString("pem").trim()}\n`;
}

/** Self-signed root for a trust domain. */
export async function makeRoot(trustDomain: string, nowMs: number): Promise<Issuer> {
  const keyPem = await makeKey("rsa-4096");
  const key = createPrivateKey(keyPem);
  const algorithm = algorithmOf(key);
  const der = key.export({ type: "pkcs8", format: "der" });
  const signing = await webcrypto.subtle.importKey(
    "pkcs8",
    der,
    algorithm.import as webcrypto.RsaHashedImportParams,
    false,
    ["sign"],
  );
  const certPem = await sign(
    {
      // The serial in the name keeps two roots of one trust domain apart for programs that look issuers up by name.
      subject: `O=Fairlead, CN=${trustDomain} root ${randomBytes(4).toString("hex")}`,
      publicKey: await publicOf(keyPem),
      notBeforeMs: nowMs - clockSkewMs,
      notAfterMs: nowMs + rootLifeMs,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(keyCertSign, true),
      ],
    },
    { key: signing as unknown as CryptoKey, algorithm: algorithm.sign },
    undefined,
  );
  return { certPem, keyPem };
}

/** P-256 intermediate that may sign leaves only. */
export async function makeIntermediate(root: Signer, trustDomain: string, nowMs: number): Promise<Issuer> {
  const keyPem = await makeKey("p-256");
  const certPem = await sign(
    {
      subject: `O=Fairlead, CN=${trustDomain} intermediate ${randomBytes(4).toString("hex")}`,
      publicKey: await publicOf(keyPem),
      notBeforeMs: nowMs - clockSkewMs,
      notAfterMs: Math.min(nowMs + intermediateLifeMs, root.notAfterMs),
      extensions: [new x509.BasicConstraintsExtension(true, 0, true), new x509.KeyUsagesExtension(keyCertSign, true)],
    },
    root,
    root.parsed,
  );
  return { certPem, keyPem };
}

/** SubjectPublicKeyInfo of a private key. */
export async function publicKeyOf(keyPem: string): Promise<Uint8Array> {
  return new Uint8Array((await publicOf(keyPem)).rawData);
}

/** SHA-256 over the DER of a certificate, hex: how a root is named in status. */
export const fingerprint = (certPem: string): string =>
  createHash("sha256").update(new X509Certificate(certPem).raw).digest("hex");

/** The certificates of a PEM text, one text each. */
export const splitPem = (pem: string): readonly string[] =>
  (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map((one) => `${one}\n`);
