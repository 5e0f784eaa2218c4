// A CA that the operator supplies: by files (PEM of the root, and its key or an intermediate with its key), or by a Secret as
// cert-manager writes them.
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import type { SuppliedCa } from "./chain.ts";
import { importPkcs12 } from "./pkcs12.ts";
import { fingerprint, splitPem } from "./pki.ts";
import { StateError } from "./state-files.ts";

export interface SuppliedFiles {
  readonly rootCert: string | undefined;
  readonly rootKey: string | undefined;
  readonly intermediateCert: string | undefined;
  readonly intermediateKey: string | undefined;
  /** PKCS#12 with root and key, and the file that holds its password. */
  readonly pkcs12: string | undefined;
  readonly pkcs12Password: string | undefined;
}

/** Reads the files at each call, and what they hold only when that changed. Throws StateError naming the one that cannot be read. */
export function suppliedByFiles(files: SuppliedFiles): () => SuppliedCa | undefined {
  const names = [
    files.rootCert,
    files.rootKey,
    files.intermediateCert,
    files.intermediateKey,
    files.pkcs12,
    files.pkcs12Password,
  ];
  let known: { readonly content: string; readonly supplied: SuppliedCa | undefined } | undefined;
  return () => {
    const content = names.map((name) => (name === undefined ? "" : read(name).toString("base64"))).join();
    if (known?.content !== content) known = { content, supplied: readSuppliedCa(files) };
    return known.supplied;
  };
}

function readSuppliedCa(files: SuppliedFiles): SuppliedCa | undefined {
  if (files.pkcs12 !== undefined) {
    const password = files.pkcs12Password === undefined ? "" : read(files.pkcs12Password).toString("utf8").trimEnd();
    const root = importPkcs12(read(files.pkcs12), password);
    if (!root.ok) throw new StateError(`CA file ${files.pkcs12}: ${root.error}`);
    return { rootCertPem: root.value.certPem, rootKeyPem: root.value.keyPem, intermediate: undefined };
  }
  if (files.rootCert === undefined) return undefined;
  const { intermediateCert, intermediateKey } = files;
  return {
    rootCertPem: readText(files.rootCert),
    rootKeyPem: files.rootKey === undefined ? undefined : readText(files.rootKey),
    intermediate:
      intermediateCert === undefined || intermediateKey === undefined
        ? undefined
        : { certPem: readText(intermediateCert), keyPem: readText(intermediateKey) },
  };
}
const readText = (path: string): string => read(path).toString("utf8");
function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new StateError(`CA file ${path} cannot be read: ${(error as Error).message}`);
  }
}

/**
 * A Secret of type kubernetes.io/tls: tls.crt and tls.key are the CA that signs, ca.crt is the root above it. A self-signed tls.crt is the
 * root itself, with its key. `where` is for messages. Throws StateError naming what is missing.
 */
export function suppliedBySecret(data: Readonly<Record<string, string>>, where: string): SuppliedCa {
  const need = (name: string): string => {
    const text = data[name]?.trim();
    if (text === undefined || text === "") throw new StateError(`${where}: ${name} is missing`);
    return `${text}\n`;
  };
  const [certPem, ...above] = splitPem(need("tls.crt"));
  const keyPem = need("tls.key");
  if (certPem === undefined) throw new StateError(`${where}: tls.crt holds no certificate`);
  try {
    const certificate = new X509Certificate(certPem);
    if (certificate.checkIssued(certificate))
      return { rootCertPem: certPem, rootKeyPem: keyPem, intermediate: undefined };
    // Not every issuer fills ca.crt; then the root may stand at the end of the chain.
    const roots = [...splitPem(data["ca.crt"] ?? ""), ...above];
    const root = roots.find((one) => certificate.checkIssued(new X509Certificate(one)));
    if (root === undefined)
      throw new StateError(`${where}: ca.crt is not the issuer of tls.crt (${roots.map(fingerprint)})`);
    return { rootCertPem: root, rootKeyPem: undefined, intermediate: { certPem, keyPem } };
  } catch (error) {
    if (error instanceof StateError) throw error;
    throw new StateError(`${where}: a certificate cannot be read: ${(error as Error).message}`);
  }
}
