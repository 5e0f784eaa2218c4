// One root with the intermediate under it: made, taken in from outside, and read back from the names that the store has them under.
import { X509Certificate } from "node:crypto";
import { type CaFiles, chainNames } from "./ca-store.ts";
import { type Issuer, loadSigner, makeIntermediate, makeRoot, type Signer, splitPem } from "./pki.ts";
import { StateError } from "./state-files.ts";

export interface Chain {
  readonly number: number;
  readonly rootPem: string;
  /** Absent when the operator keeps the root's key elsewhere. */
  readonly rootKeyPem: string | undefined;
  readonly intermediate: Signer;
}
/** A chain from outside; with the root's key an intermediate is made, else one must be given. */
export interface SuppliedCa {
  readonly rootCertPem: string;
  readonly rootKeyPem: string | undefined;
  readonly intermediate: Issuer | undefined;
}
export interface ChainPlan {
  readonly number: number;
  readonly supplied: SuppliedCa | undefined;
  readonly trustDomain: string;
  readonly nowMs: number;
}

/** Files of a new chain: the supplied one, or one of a fresh root. Throws StateError. */
export async function createChain({ number, supplied, trustDomain, nowMs }: ChainPlan): Promise<CaFiles> {
  const root =
    supplied === undefined
      ? await makeRoot(trustDomain, nowMs)
      : { certPem: supplied.rootCertPem, keyPem: supplied.rootKeyPem };
  const issuer = supplied?.intermediate ?? (await intermediateUnder(root, trustDomain, nowMs));
  const [rootCert, rootKey] = chainNames(number);
  return new Map([
    [rootCert, root.certPem],
    ...(root.keyPem === undefined ? [] : ([[rootKey, root.keyPem]] as const)),
    ...(await intermediateFiles(number, issuer, root.certPem)),
  ]);
}

/** Files of an intermediate that is checked against its root. Throws StateError. */
export async function intermediateFiles(number: number, issuer: Issuer, rootPem: string): Promise<CaFiles> {
  // Of a supplied chain the first certificate is the one that the key belongs to.
  const certPem = splitPem(issuer.certPem)[0] ?? issuer.certPem;
  await checkedIntermediate({ certPem, keyPem: issuer.keyPem }, rootPem);
  const [, , cert, key] = chainNames(number);
  return new Map([
    [cert, certPem],
    [key, issuer.keyPem],
  ]);
}

/** Files of a fresh intermediate under a root whose key is here. Throws StateError. */
export async function renewedIntermediate(chain: Chain, trustDomain: string, nowMs: number): Promise<CaFiles> {
  const issuer = await intermediateUnder({ certPem: chain.rootPem, keyPem: chain.rootKeyPem }, trustDomain, nowMs);
  return intermediateFiles(chain.number, issuer, chain.rootPem);
}

/** `where` is for messages. Throws StateError when something is missing or does not belong together. */
export async function loadChain(files: CaFiles, number: number, where: string): Promise<Chain> {
  const [rootCert, rootKey, cert, key] = chainNames(number);
  const need = (name: string): string => {
    const text = files.get(name);
    if (text === undefined)
      throw new StateError(`${where}: ${name} is missing: restore it from a backup, or remove all to start a new CA`);
    return text;
  };
  const rootPem = need(rootCert);
  const intermediate = await checkedIntermediate({ certPem: need(cert), keyPem: need(key) }, rootPem);
  return { number, rootPem, rootKeyPem: files.get(rootKey), intermediate };
}

async function intermediateUnder(
  root: { readonly certPem: string; readonly keyPem: string | undefined },
  trustDomain: string,
  nowMs: number,
): Promise<Issuer> {
  if (root.keyPem === undefined)
    throw new StateError("the root is supplied without its key, so an intermediate with its key must be supplied too");
  return makeIntermediate(await loadSigner({ certPem: root.certPem, keyPem: root.keyPem }), trustDomain, nowMs);
}

async function checkedIntermediate(issuer: Issuer, rootPem: string): Promise<Signer> {
  const signer = await loadSigner(issuer).catch((error: Error) => {
    throw new StateError(`the intermediate certificate cannot be used: ${error.message}`);
  });
  const root = new X509Certificate(rootPem);
  if (!signer.certificate.checkIssued(root) || !signer.certificate.verify(root.publicKey)) {
    throw new StateError("the intermediate certificate is not signed by the root");
  }
  return signer;
}
