// The certificate authority: roots and intermediates on disk, signing, and the three steps of a root's rotation.
import { X509Certificate } from "node:crypto";
import { err, ok, type Result } from "../../agent/base/result.ts";
import {
  fingerprint,
  type Issuer,
  type LeafPlan,
  loadSigner,
  makeIntermediate,
  makeLeaf,
  makeRoot,
  type Signer,
} from "./pki.ts";
import { StateError, type StateFiles } from "./state-files.ts";

export type RotationPhase = "steady" | "both-trusted" | "switched";
interface Stored {
  readonly version: 1;
  /** Grows with every change of the trusted roots or of the one in use. */
  readonly generation: number;
  readonly phase: RotationPhase;
  /** Numbers of the trusted roots; files root-N.crt, root-N.key, intermediate-N.crt, intermediate-N.key. */
  readonly roots: readonly number[];
  readonly active: number;
  readonly switchedAtMs: number;
}
interface Chain {
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
export interface Issued {
  /** Leaf, then intermediate. */
  readonly chainPem: string;
  readonly notAfterMs: number;
  readonly rootNumber: number;
}
type UndatedLeaf = Omit<LeafPlan, "notAfterMs" | "notBeforeMs">;
export interface AuthorityOptions {
  readonly trustDomain: string;
  readonly files: StateFiles;
  readonly now: () => number;
  readonly supplied?: SuppliedCa | undefined;
}

export class Authority {
  readonly #options: AuthorityOptions;
  #stored: Stored;
  #chains: ReadonlyMap<number, Chain>;
  #changed: () => void = () => {};

  private constructor(options: AuthorityOptions, stored: Stored, chains: ReadonlyMap<number, Chain>) {
    this.#options = options;
    this.#stored = stored;
    this.#chains = chains;
  }

  /** Loads what is on disk, or makes (or takes in) a first root. Throws StateError with one clear line. */
  static async open(options: AuthorityOptions): Promise<Authority> {
    const text = options.files.read("ca.json");
    if (text === undefined) {
      const chain = await Authority.#createChain(options, 1, options.supplied);
      const stored: Stored = { version: 1, generation: 1, phase: "steady", roots: [1], active: 1, switchedAtMs: 0 };
      options.files.write("ca.json", JSON.stringify(stored));
      return new Authority(options, stored, new Map([[1, chain]]));
    }
    const stored = parseStored(text, options.files.dir);
    const chains = new Map<number, Chain>();
    for (const number of stored.roots) chains.set(number, await Authority.#loadChain(options, number));
    const authority = new Authority(options, stored, chains);
    await authority.#adoptSupplied();
    return authority;
  }

  /** Called after every change of generation. */
  onChange(changed: () => void): void {
    this.#changed = changed;
  }
  get generation(): number {
    return this.#stored.generation;
  }
  get phase(): RotationPhase {
    return this.#stored.phase;
  }
  get activeRoot(): number {
    return this.#stored.active;
  }
  get switchedAtMs(): number {
    return this.#stored.switchedAtMs;
  }
  /** One PEM certificate each; all of them are trusted. */
  get rootsPem(): readonly string[] {
    return this.#stored.roots.flatMap((number) => this.#chains.get(number)?.rootPem ?? []);
  }
  get intermediateNotAfterMs(): number {
    return this.#active().intermediate.notAfterMs;
  }
  describe(): readonly {
    readonly number: number;
    readonly active: boolean;
    readonly sha256: string;
    readonly notAfterMs: number;
  }[] {
    return [...this.#chains.values()].map((chain) => ({
      number: chain.number,
      active: chain.number === this.#stored.active,
      sha256: fingerprint(chain.rootPem),
      notAfterMs: Date.parse(new X509Certificate(chain.rootPem).validTo),
    }));
  }

  /** The active root for export; its key is undefined when it is kept elsewhere. */
  exportRoot(): { readonly certPem: string; readonly keyPem: string | undefined } {
    const chain = this.#active();
    return { certPem: chain.rootPem, keyPem: chain.rootKeyPem };
  }

  #active(): Chain {
    const chain = this.#chains.get(this.#stored.active);
    if (chain === undefined) throw new StateError(`ca.json names root ${this.#stored.active}, which is not there`);
    return chain;
  }

  /** Signs a leaf that never outlives its intermediate. */
  issue(plan: UndatedLeaf, lifeMs: number, skewMs: number): Promise<Issued> {
    return this.#sign(this.#active(), plan, lifeMs, skewMs);
  }

  /**
   * As issue, by the root that has been trusted longest: for the controller's own certificate, so that an agent which has not heard
   * of a rotation yet (it was away, or its connection is older) still gets through to hear of it.
   */
  issueForServer(plan: UndatedLeaf, lifeMs: number, skewMs: number): Promise<Issued> {
    const chain = this.#chains.get(Math.min(...this.#stored.roots)) ?? this.#active();
    return this.#sign(chain, plan, lifeMs, skewMs);
  }

  async #sign({ intermediate, number }: Chain, plan: UndatedLeaf, lifeMs: number, skewMs: number): Promise<Issued> {
    const now = this.#options.now();
    const notAfterMs = Math.min(now + lifeMs, intermediate.notAfterMs - 1000);
    const leaf = await makeLeaf(intermediate, { ...plan, notBeforeMs: now - skewMs, notAfterMs });
    return {
      chainPem: leaf + intermediate.certPem,
      notAfterMs: Math.floor(notAfterMs / 1000) * 1000,
      rootNumber: number,
    };
  }

  /** The operator's files name a root that is not trusted yet: the next rotation takes it in. */
  get suppliedIsWaiting(): boolean {
    const { supplied } = this.#options;
    if (supplied === undefined) return false;
    const wanted = fingerprint(supplied.rootCertPem);
    return ![...this.#chains.values()].some((chain) => fingerprint(chain.rootPem) === wanted);
  }

  /** A second root that everybody trusts from now on and nobody is signed by yet: the supplied one if it is new, else a fresh one. */
  async beginRotation(): Promise<Result<void, string>> {
    if (this.#stored.phase !== "steady")
      return err(`a rotation is under way (${this.#stored.phase}): switch or finish it first`);
    const number = Math.max(...this.#stored.roots) + 1;
    const chain = await Authority.#createChain(
      this.#options,
      number,
      this.suppliedIsWaiting ? this.#options.supplied : undefined,
    );
    this.#save(
      { ...this.#stored, phase: "both-trusted", roots: [...this.#stored.roots, number] },
      new Map([...this.#chains, [number, chain]]),
    );
    return ok(undefined);
  }

  /** From now on the new root signs. */
  switchRoot(): Result<void, string> {
    if (this.#stored.phase !== "both-trusted")
      return err(`nothing to switch to (${this.#stored.phase}): begin a rotation first`);
    const active = Math.max(...this.#stored.roots);
    this.#save({ ...this.#stored, phase: "switched", active, switchedAtMs: this.#options.now() }, this.#chains);
    return ok(undefined);
  }

  /** The old root is no longer trusted and its key is removed. */
  finishRotation(): Result<void, string> {
    if (this.#stored.phase !== "switched")
      return err(`nothing to finish (${this.#stored.phase}): begin and switch first`);
    const gone = this.#stored.roots.filter((number) => number !== this.#stored.active);
    const chains = new Map([...this.#chains].filter(([number]) => !gone.includes(number)));
    this.#save({ ...this.#stored, phase: "steady", roots: [this.#stored.active] }, chains);
    for (const number of gone) for (const name of filesOf(number)) this.#options.files.remove(name);
    return ok(undefined);
  }

  /** A new intermediate when the old one nears its end; false when it does not, or the root's key is not here. */
  async renewIntermediate(beforeEndMs: number): Promise<boolean> {
    const chain = this.#active();
    if (chain.intermediate.notAfterMs - this.#options.now() > beforeEndMs || chain.rootKeyPem === undefined)
      return false;
    const root = await loadSigner({ certPem: chain.rootPem, keyPem: chain.rootKeyPem });
    const issuer = await makeIntermediate(root, this.#options.trustDomain, this.#options.now());
    writeIssuer(this.#options.files, `intermediate-${chain.number}`, issuer);
    this.#chains = new Map([...this.#chains, [chain.number, { ...chain, intermediate: await loadSigner(issuer) }]]);
    return true;
  }

  #save(stored: Stored, chains: ReadonlyMap<number, Chain>): void {
    const next = { ...stored, generation: stored.generation + 1 };
    this.#options.files.write("ca.json", JSON.stringify(next));
    this.#stored = next;
    this.#chains = chains;
    this.#changed();
  }

  /** A renewed intermediate in the operator's files (cert-manager, a mounted Secret) takes the place of the stored one. */
  async #adoptSupplied(): Promise<void> {
    const { supplied, files } = this.#options;
    if (supplied?.intermediate === undefined) return;
    const chain = this.#active();
    if (fingerprint(supplied.rootCertPem) !== fingerprint(chain.rootPem)) return;
    if (fingerprint(supplied.intermediate.certPem) === fingerprint(chain.intermediate.certPem)) return;
    const intermediate = await checkedIntermediate(supplied.intermediate, supplied.rootCertPem);
    writeIssuer(files, `intermediate-${chain.number}`, supplied.intermediate);
    this.#chains = new Map([...this.#chains, [chain.number, { ...chain, intermediate }]]);
  }

  static async #createChain(
    options: AuthorityOptions,
    number: number,
    supplied: SuppliedCa | undefined,
  ): Promise<Chain> {
    const { files, trustDomain } = options;
    const root =
      supplied === undefined
        ? await makeRoot(trustDomain, options.now())
        : { certPem: supplied.rootCertPem, keyPem: supplied.rootKeyPem };
    const issuer = supplied?.intermediate ?? (await intermediateUnder(root, trustDomain, options.now()));
    const intermediate = await checkedIntermediate(issuer, root.certPem);
    files.write(`root-${number}.crt`, root.certPem);
    if (root.keyPem !== undefined) files.write(`root-${number}.key`, root.keyPem);
    writeIssuer(files, `intermediate-${number}`, issuer);
    return { number, rootPem: root.certPem, rootKeyPem: root.keyPem, intermediate };
  }

  static async #loadChain(options: AuthorityOptions, number: number): Promise<Chain> {
    const { files } = options;
    const [rootCert = "", rootKey = "", cert = "", key = ""] = filesOf(number);
    const need = (name: string): string => {
      const text = files.read(name);
      if (text === undefined)
        throw new StateError(
          `state file ${files.dir}/${name} is missing: restore it from a backup, or remove the folder to start a new CA`,
        );
      return text;
    };
    const rootPem = need(rootCert);
    const intermediate = await checkedIntermediate({ certPem: need(cert), keyPem: need(key) }, rootPem);
    return { number, rootPem, rootKeyPem: files.read(rootKey), intermediate };
  }
}

const filesOf = (number: number): readonly string[] => [
  `root-${number}.crt`,
  `root-${number}.key`,
  `intermediate-${number}.crt`,
  `intermediate-${number}.key`,
];

function writeIssuer(files: StateFiles, name: string, issuer: Issuer): void {
  files.write(`${name}.key`, issuer.keyPem);
  files.write(`${name}.crt`, issuer.certPem);
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

function parseStored(text: string, dir: string): Stored {
  try {
    const value = JSON.parse(text) as Stored;
    const isFine =
      value.version === 1 &&
      Number.isInteger(value.generation) &&
      Array.isArray(value.roots) &&
      value.roots.includes(value.active);
    if (isFine) return value;
  } catch {
    // Told below.
  }
  throw new StateError(
    `state file ${dir}/ca.json is damaged: restore it from a backup, or remove the folder to start a new CA`,
  );
}
