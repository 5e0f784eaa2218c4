// A CA that the operator supplies by files: PEM of the root, and its key or an intermediate with its key.
import { readFileSync } from "node:fs";
import type { SuppliedCa } from "./authority.ts";
import { importPkcs12 } from "./pkcs12.ts";
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

/** Reads the files; throws StateError naming the one that cannot be read. */
export function readSuppliedCa(files: SuppliedFiles): SuppliedCa | undefined {
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
