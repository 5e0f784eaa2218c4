// Keys and certificates of a cluster: an authority, one certificate for each part, the key that signs service accounts' tokens.
import { createPrivateKey, generateKeyPairSync, randomBytes, webcrypto } from "node:crypto";
import { x509 } from "../../../controller/issue/x509.ts";

export interface KeyPair {
  readonly certPem: string;
  readonly keyPem: string;
}

/** What a certificate says: whom the API server takes its owner for, and under which names it may serve. */
export interface Subject {
  readonly commonName: string;
  readonly group?: string;
  readonly names?: readonly string[];
  readonly addresses?: readonly string[];
}

const curve = { name: "ECDSA", namedCurve: "P-256" } as const;
const signature = { name: "ECDSA", hash: "SHA-256" } as const;
const YEARS_MS = 10 * 365 * 86_400_000;
/** Clocks of machines that a kubeconfig is carried to. */
const SKEW_MS = 300_000;

/** As the certificate library has them: the same objects as node:crypto's under another type. */
interface Keys {
  readonly publicKey: CryptoKey;
  readonly privateKey: CryptoKey;
}

async function newKey(): Promise<{ readonly pair: Keys; readonly pem: string }> {
  const pair = await webcrypto.subtle.generateKey(curve, true, ["sign", "verify"]);
  const der = await webcrypto.subtle.exportKey("pkcs8", pair.privateKey);
  const body = Buffer.from(der)
    .toString("base64")
    .replace(/.{64}(?=.)/g, "$&\n");
  return { pair: pair as unknown as Keys, pem: `-----BEGIN PRIVATE KEY-----\n${body}\n-----END PRIVATE KEY-----\n` };
}

/** Positive, 126 random bits. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString("hex");
}

/** The authority of one cluster; its key stays readable, since the controller manager signs with it too. */
export class Authority {
  readonly own: KeyPair;
  readonly #key: CryptoKey;
  readonly #certificate: x509.X509Certificate;
  readonly #nowMs: number;

  private constructor(own: KeyPair, key: CryptoKey, certificate: x509.X509Certificate, nowMs: number) {
    this.own = own;
    this.#key = key;
    this.#certificate = certificate;
    this.#nowMs = nowMs;
  }

  static async make(name: string, nowMs: number): Promise<Authority> {
    const { pair, pem } = await newKey();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: `CN=${name}`,
      notBefore: new Date(nowMs - SKEW_MS),
      notAfter: new Date(nowMs + YEARS_MS),
      keys: pair,
      signingAlgorithm: signature,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.digitalSignature, true),
        await x509.SubjectKeyIdentifierExtension.create(pair.publicKey),
      ],
    });
    return new Authority({ certPem: pemOf(certificate), keyPem: pem }, pair.privateKey, certificate, nowMs);
  }

  /** The authority that was made before, to issue more. */
  static async load(own: KeyPair, nowMs: number): Promise<Authority> {
    const der = createPrivateKey(own.keyPem).export({ type: "pkcs8", format: "der" });
    const key = (await webcrypto.subtle.importKey("pkcs8", der, curve, false, ["sign"])) as unknown as CryptoKey;
    return new Authority(own, key, new x509.X509Certificate(own.certPem), nowMs);
  }

  /** A certificate that serves if it has names or addresses, and always identifies a client. */
  async issue(subject: Subject): Promise<KeyPair> {
    const { pair, pem } = await newKey();
    const alternative = [
      ...(subject.names ?? []).map((value) => ({ type: "dns" as const, value })),
      ...(subject.addresses ?? []).map((value) => ({ type: "ip" as const, value })),
    ];
    const serves = alternative.length > 0;
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: `${subject.group === undefined ? "" : `O=${subject.group}, `}CN=${subject.commonName}`,
      issuer: this.#certificate.subject,
      notBefore: new Date(this.#nowMs - SKEW_MS),
      notAfter: this.#certificate.notAfter,
      publicKey: pair.publicKey,
      signingKey: this.#key,
      signingAlgorithm: signature,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([
          x509.ExtendedKeyUsage.clientAuth,
          ...(serves ? [x509.ExtendedKeyUsage.serverAuth] : []),
        ]),
        ...(serves ? [new x509.SubjectAlternativeNameExtension(alternative)] : []),
        await x509.AuthorityKeyIdentifierExtension.create(this.#certificate.publicKey),
      ],
    });
    return { certPem: pemOf(certificate), keyPem: pem };
  }
}

const pemOf = (certificate: x509.X509Certificate): string => `${certificate.toString("pem").trim()}\n`;

/** What service accounts' tokens are signed and checked with (RS256: every client can check it). */
export function tokenKeys(): { readonly privatePem: string; readonly publicPem: string } {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    privatePem: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
    publicPem: publicKey.export({ type: "spki", format: "pem" }) as string,
  };
}
