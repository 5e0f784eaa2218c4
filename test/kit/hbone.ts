// HBONE peers in pods of a lab: Node's own http2 over TLS (test/hbone), with certificates that the lab's own CA signs, or that are wrong.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signLeaf } from "../../controller/issue/leaf.ts";
import {
  type Issuer,
  loadSigner,
  makeIntermediate,
  makeKey,
  makeRoot,
  publicKeyOf,
} from "../../controller/issue/pki.ts";
import type { PeerSettings } from "../hbone/settings.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import type { PodProgram } from "../lab/programs.ts";
import type { TestLab } from "./lab.ts";

/** Files in PEM, readable in every pod. */
export interface PeerFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}
export interface LeafWishes {
  /** From now, ms. */
  readonly beginsMs?: number;
  readonly endsMs?: number;
  /** An authority that nobody knows. */
  readonly foreign?: boolean;
}

const minute = 60_000;

export class PeerCertificates {
  readonly #lab: TestLab;
  readonly #dir: string;
  #foreign: Issuer | undefined;
  #made = 0;

  constructor(lab: TestLab) {
    this.#lab = lab;
    this.#dir = join(lab.paths.dir, "hbone");
    mkdirSync(this.#dir, { recursive: true });
  }

  /** A certificate for this identity, with the lab's root to check others by. */
  async make(identity: string, wishes: LeafWishes = {}): Promise<PeerFiles> {
    const issuer = wishes.foreign === true ? await this.#stranger() : this.#own("intermediate-1");
    const keyPem = await makeKey("p-256");
    const now = Date.now();
    const leaf = await signLeaf(await loadSigner(issuer), {
      publicKey: await publicKeyOf(keyPem),
      uri: identity,
      notBeforeMs: now + (wishes.beginsMs ?? -5 * minute),
      notAfterMs: now + (wishes.endsMs ?? 60 * minute),
    });
    const number = ++this.#made;
    const write = (name: string, text: string): string => {
      const path = join(this.#dir, `${number}.${name}`);
      writeFileSync(path, text);
      return path;
    };
    return {
      ca: write("ca", this.#state("root-1.crt")),
      cert: write("crt", leaf + issuer.certPem),
      key: write("key", keyPem),
    };
  }

  #state(name: string): string {
    return readFileSync(join(this.#lab.paths.dir, "controller", name), "utf8");
  }

  #own(name: string): Issuer {
    return { certPem: this.#state(`${name}.crt`), keyPem: this.#state(`${name}.key`) };
  }

  async #stranger(): Promise<Issuer> {
    this.#foreign ??= await makeIntermediate(
      await loadSigner(await makeRoot("cluster.local", Date.now())),
      "cluster.local",
      Date.now(),
    );
    return this.#foreign;
  }
}

/** Starts a peer in a pod; it reports in JSON lines and ends with the test. */
export const startPeer = (
  lab: TestLab,
  pod: string,
  which: "client" | "server",
  settings: PeerSettings,
): Promise<PodProgram> =>
  lab.start(pod, [
    process.execPath,
    "--disable-warning=ExperimentalWarning",
    join(PROJECT_DIR, `test/hbone/peer-${which}.ts`),
    JSON.stringify(settings),
  ]);

/** The next line that is such an event; others are skipped. */
export async function eventOf(program: PodProgram, ...events: readonly string[]): Promise<Record<string, unknown>> {
  for (;;) {
    const line = await program.next();
    if (events.includes(String(line.event))) return line;
  }
}
