// The certificate authority: roots and intermediates in a store, signing, and the three steps of a root's rotation. Where the store is
// shared, others write to it too: every change is made upon what was read last, and reload() takes in what they did.
import { X509Certificate } from "node:crypto";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { type CaFiles, type CaIndex, type CaStore, caIndexName, parseCaIndex, type RotationPhase } from "./ca-store.ts";
import {
  type Chain,
  createChain,
  intermediateFiles,
  loadChain,
  renewedIntermediate,
  type SuppliedCa,
} from "./chain.ts";
import {
  firstJwtKeys,
  type JwtKey,
  type JwtPlan,
  JwtSigner,
  jwksOf,
  jwtKeysName,
  jwtKeysText,
  parseJwtKeys,
  rotatedJwtKeys,
} from "./jwt.ts";
import { type LeafPlan, signLeaf } from "./leaf.ts";
import { dayMs, fingerprint, intermediateLifeMs } from "./pki.ts";
import { StateError } from "./state-files.ts";

export interface Issued {
  /** Leaf, then intermediate. */
  readonly chainPem: string;
  readonly notAfterMs: number;
  readonly rootNumber: number;
}
type UndatedLeaf = Omit<LeafPlan, "notAfterMs" | "notBeforeMs">;
export interface AuthorityOptions {
  readonly trustDomain: string;
  readonly store: CaStore;
  readonly now: () => number;
  readonly supplied?: SuppliedCa | undefined;
}
interface State {
  readonly index: CaIndex;
  readonly chains: ReadonlyMap<number, Chain>;
  readonly jwt: { readonly keys: readonly JwtKey[]; readonly jwks: string; readonly signer: JwtSigner };
  /** As stored, to tell what others changed and to write it again should it be removed. */
  readonly files: CaFiles;
}
interface Change {
  readonly index: CaIndex;
  readonly put?: CaFiles;
  readonly remove?: readonly string[];
}

export class Authority {
  readonly #options: AuthorityOptions;
  #supplied: SuppliedCa | undefined;
  #state: State;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #listeners = new Set<() => void>();
  #revision = 1;

  private constructor(options: AuthorityOptions, state: State) {
    this.#options = options;
    this.#supplied = options.supplied;
    this.#state = state;
  }

  /** Loads what is stored, or makes (or takes in) a first root. Throws StateError with one clear line. */
  static async open(options: AuthorityOptions): Promise<Authority> {
    const { store } = options;
    let files = await store.load();
    if (!files.has(caIndexName)) {
      const { supplied, trustDomain } = options;
      const made = await createChain({ number: 1, supplied, trustDomain, nowMs: options.now() });
      const index: CaIndex = { version: 1, generation: 1, phase: "steady", roots: [1], active: 1, switchedAtMs: 0 };
      const jwtKeys = jwtKeysText(await firstJwtKeys(options.now()));
      const put = new Map([...made, [jwtKeysName, jwtKeys], [caIndexName, JSON.stringify(index)]]);
      // Of several replicas that begin together the first one's root is everybody's.
      files = (await store.save({ put, remove: [] })) === "saved" ? put : await store.load();
    }
    const authority = new Authority(options, await stateOf(files, store.where));
    await authority.#adoptSupplied();
    // One from before there were such keys.
    await authority.renewJwtKeys();
    return authority;
  }

  /** Called after every change of generation or of the keys for JWTs. */
  onChange(changed: () => void): void {
    this.#listeners.add(changed);
  }
  get isShared(): boolean {
    return this.#options.store.isShared;
  }
  get generation(): number {
    return this.#state.index.generation;
  }
  /** Grows in this process with every change of generation or of the keys for JWTs. */
  get revision(): number {
    return this.#revision;
  }
  get phase(): RotationPhase {
    return this.#state.index.phase;
  }
  get activeRoot(): number {
    return this.#state.index.active;
  }
  /** The last one made; the one that will sign, while a rotation is under way. */
  get newestRoot(): number {
    return Math.max(...this.#state.index.roots);
  }
  get switchedAtMs(): number {
    return this.#state.index.switchedAtMs;
  }
  /** When the rotation under way began; 0 if that is not known. */
  get begunAtMs(): number {
    return this.#state.index.begunAtMs ?? 0;
  }
  /** One PEM certificate each; all of them are trusted. */
  get rootsPem(): readonly string[] {
    const { index, chains } = this.#state;
    return index.roots.flatMap((number) => chains.get(number)?.rootPem ?? []);
  }
  /** The keys that verify JWT-SVIDs, as a JSON Web Key Set. */
  get jwks(): string {
    return this.#state.jwt.jwks;
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
    return [...this.#state.chains.values()].map((chain) => ({
      number: chain.number,
      active: chain.number === this.#state.index.active,
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
    const { index, chains } = this.#state;
    const chain = chains.get(index.active);
    if (chain === undefined) throw new StateError(`${caIndexName} names root ${index.active}, which is not there`);
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
    const { index, chains } = this.#state;
    const oldest = chains.get(Math.min(...index.roots));
    // Nobody renews the intermediate of a root that is on its way out.
    const lasts = oldest !== undefined && oldest.intermediate.notAfterMs > this.#options.now() + lifeMs;
    return this.#sign(lasts ? oldest : this.#active(), plan, lifeMs, skewMs);
  }

  async #sign({ intermediate, number }: Chain, plan: UndatedLeaf, lifeMs: number, skewMs: number): Promise<Issued> {
    const now = this.#options.now();
    const notAfterMs = Math.min(now + lifeMs, intermediate.notAfterMs - 1000);
    const leaf = await signLeaf(intermediate, { ...plan, notBeforeMs: now - skewMs, notAfterMs });
    return {
      chainPem: leaf + intermediate.certPem,
      notAfterMs: Math.floor(notAfterMs / 1000) * 1000,
      rootNumber: number,
    };
  }

  issueJwt(plan: Omit<JwtPlan, "issuedMs">): { readonly token: string; readonly notAfterMs: number } {
    return this.#state.jwt.signer.sign({ ...plan, issuedMs: this.#options.now() });
  }

  /** The subject of a JWT that is ours, or why it is not. */
  jwtSubject(token: string, audience: string): Result<string, string> {
    return this.#state.jwt.signer.subjectOf(token, audience, this.#options.now());
  }

  /** The next key for JWTs when it is time; true if there is one. */
  async renewJwtKeys(): Promise<boolean> {
    const { now } = this.#options;
    if ((await rotatedJwtKeys(this.#state.jwt.keys, now())) === undefined) return false;
    const renewed = await this.#change(async ({ index, jwt }) => {
      const keys = await rotatedJwtKeys(jwt.keys, now());
      return keys === undefined ? err("not due") : ok({ index, put: new Map([[jwtKeysName, jwtKeysText(keys)]]) });
    });
    return renewed.ok;
  }

  /** The operator's files name a root that is not trusted yet: the next rotation takes it in. */
  get suppliedIsWaiting(): boolean {
    if (this.#supplied === undefined) return false;
    const wanted = fingerprint(this.#supplied.rootCertPem);
    return ![...this.#state.chains.values()].some((chain) => fingerprint(chain.rootPem) === wanted);
  }

  /** What the operator supplies has changed. A new intermediate of the active root is used from now on. Throws StateError if it is no good. */
  supply(supplied: SuppliedCa | undefined): Promise<void> {
    this.#supplied = supplied;
    return this.#adoptSupplied();
  }

  /** A second root that everybody trusts from now on and nobody is signed by yet: the supplied one if it is new, else a fresh one. */
  beginRotation(): Promise<Result<void, string>> {
    return this.#change(async ({ index }) => {
      if (index.phase !== "steady") return err(`a rotation is under way (${index.phase}): switch or finish it first`);
      const number = Math.max(...index.roots) + 1;
      const { trustDomain, now } = this.#options;
      const supplied = this.suppliedIsWaiting ? this.#supplied : undefined;
      const put = await createChain({ number, supplied, trustDomain, nowMs: now() });
      const roots = [...index.roots, number];
      return ok({ index: { ...next(index), phase: "both-trusted", roots, begunAtMs: now() }, put });
    });
  }

  /** From now on the new root signs. */
  switchRoot(): Promise<Result<void, string>> {
    return this.#change(async ({ index }) => {
      if (index.phase !== "both-trusted") return err(`nothing to switch to (${index.phase}): begin a rotation first`);
      const active = Math.max(...index.roots);
      return ok({ index: { ...next(index), phase: "switched", active, switchedAtMs: this.#options.now() } });
    });
  }

  /** The old root is no longer trusted and its key is removed. */
  finishRotation(): Promise<Result<void, string>> {
    return this.#change(async ({ index, files }) => {
      if (index.phase !== "switched") return err(`nothing to finish (${index.phase}): begin and switch first`);
      const gone = index.roots.filter((number) => number !== index.active);
      const remove = [...files.keys()].filter((name) => gone.some((number) => name.includes(`-${number}.`)));
      return ok({ index: { ...next(index), phase: "steady", roots: [index.active] }, remove });
    });
  }

  /** A new intermediate when the old one nears its end and a new one would last longer; false when not so, or the root's key is not here. */
  async renewIntermediate(beforeEndMs: number): Promise<boolean> {
    const { trustDomain, now } = this.#options;
    const isDue = (): boolean => {
      const { intermediate, rootKeyPem, rootPem } = this.#active();
      if (rootKeyPem === undefined || intermediate.notAfterMs - now() > beforeEndMs) return false;
      // None outlives its root.
      const rootEndMs = Date.parse(new X509Certificate(rootPem).validTo);
      return Math.min(now() + intermediateLifeMs, rootEndMs) - intermediate.notAfterMs >= dayMs;
    };
    if (!isDue()) return false;
    const renewed = await this.#change(async ({ index }) =>
      isDue() ? ok({ index, put: await renewedIntermediate(this.#active(), trustDomain, now()) }) : err("not due"),
    );
    return renewed.ok;
  }

  /**
   * Takes in what other controllers wrote; true if there was something. A store that has been emptied is filled again: without it the
   * next start would begin a new CA that nobody trusts. Throws StateError.
   */
  reload(): Promise<boolean> {
    return this.#inTurn(async () => {
      const { store } = this.#options;
      const files = await store.load();
      if (!files.has(caIndexName)) {
        await store.save({ put: this.#state.files, remove: [] });
        return true;
      }
      if (isSame(files, this.#state.files)) return false;
      this.#take(await stateOf(files, store.where));
      return true;
    });
  }

  #take(state: State): void {
    const before = this.#state;
    this.#state = state;
    if (state.index.generation === before.index.generation && state.jwt.jwks === before.jwt.jwks) return;
    this.#revision += 1;
    for (const changed of this.#listeners) changed();
  }

  /** One change at a time, upon what is stored. */
  #change(make: (state: State) => Promise<Result<Change, string>>): Promise<Result<void, string>> {
    return this.#inTurn(async () => {
      const { store } = this.#options;
      const made = await make(this.#state);
      if (!made.ok) return made;
      const { index, put = new Map<string, string>(), remove = [] } = made.value;
      const written = new Map([...put, [caIndexName, JSON.stringify(index)]]);
      if ((await store.save({ put: written, remove })) === "changed") {
        this.#take(await stateOf(await store.load(), store.where));
        return err("another controller changed the CA meanwhile: look at it and try again");
      }
      const files = new Map([...this.#state.files, ...written]);
      for (const name of remove) files.delete(name);
      this.#take(await stateOf(files, store.where));
      return ok(undefined);
    });
  }
  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(run);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** A renewed intermediate of the operator's (cert-manager, a mounted Secret) takes the place of the stored one. */
  async #adoptSupplied(): Promise<void> {
    const intermediate = this.#supplied?.intermediate;
    const root = this.#supplied?.rootCertPem;
    if (intermediate === undefined || root === undefined) return;
    await this.#change(async ({ index }) => {
      const chain = this.#active();
      if (fingerprint(root) !== fingerprint(chain.rootPem)) return err("another root");
      if (fingerprint(intermediate.certPem) === fingerprint(chain.intermediate.certPem)) return err("known");
      return ok({ index, put: await intermediateFiles(chain.number, intermediate, root) });
    });
  }
}

const next = (index: CaIndex): CaIndex => ({ ...index, generation: index.generation + 1 });
const isSame = (a: CaFiles, b: CaFiles): boolean =>
  a.size === b.size && [...a].every(([name, text]) => b.get(name) === text);

async function stateOf(files: CaFiles, where: string): Promise<State> {
  const index = parseCaIndex(files.get(caIndexName) ?? "", where);
  const chains = new Map<number, Chain>();
  for (const number of index.roots) chains.set(number, await loadChain(files, number, where));
  const text = files.get(jwtKeysName);
  const keys = text === undefined ? [] : parseJwtKeys(text, where);
  return { index, chains, files, jwt: { keys, jwks: jwksOf(keys), signer: new JwtSigner(keys) } };
}
