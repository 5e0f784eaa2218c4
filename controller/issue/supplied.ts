// A CA that the operator supplies by files: PEM of the root, and its key or an intermediate with its key.
import { readFileSync } from "node:fs";
import type { SuppliedCa } from "./authority.ts";
import { StateError } from "./state-files.ts";

export interface SuppliedFiles {
  readonly rootCert: string | undefined;
  readonly rootKey: string | undefined;
  readonly intermediateCert: string | undefined;
  readonly intermediateKey: string | undefined;
}

/** Reads the files; throws StateError naming the one that cannot be read. */
export function readSuppliedCa(files: SuppliedFiles): SuppliedCa | undefined {
  if (files.rootCert === undefined) return undefined;
  const { intermediateCert, intermediateKey } = files;
  return {
    rootCertPem: read(files.rootCert),
    rootKeyPem: files.rootKey === undefined ? undefined : read(files.rootKey),
    intermediate:
      intermediateCert === undefined || intermediateKey === undefined
        ? undefined
        : { certPem: read(intermediateCert), keyPem: read(intermediateKey) },
  };
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new StateError(`CA file ${path} cannot be read: ${(error as Error).message}`);
  }
}
