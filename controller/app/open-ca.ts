// The CA's store and what the operator supplies, opened at the start and followed while the controller runs: other replicas rotate, and
// cert-manager renews, without a restart here.
import { type Clock, every } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import type { Config } from "../config.ts";
import { Authority } from "../issue/authority.ts";
import { type CaStore, folderCaStore } from "../issue/ca-store.ts";
import type { SuppliedCa } from "../issue/chain.ts";
import { readSecret, type SecretName, StoreUnreachable, secretCaStore } from "../issue/secret-store.ts";
import type { StateFiles } from "../issue/state-files.ts";
import { suppliedByFiles, suppliedBySecret } from "../issue/supplied.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { type OpenedApi, ownNamespace } from "./open-source.ts";

export interface CaParts {
  readonly config: Config;
  readonly opened: OpenedApi | undefined;
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: ControllerMetrics;
}
export interface OpenedCa {
  readonly authority: Authority;
  /** Begins to look for changes by others; returns how to end that. */
  follow(): () => void;
}
/** Between two looks at what others may have changed. */
const followMs = 5_000;
const retryMs = 1_000;

/** Waits for an API server that cannot be asked; without the CA nothing can be served. Throws StateError for everything else. */
export async function openCa(parts: CaParts): Promise<OpenedCa> {
  const { config, opened, files, clock, log, metrics } = parts;
  const store: CaStore =
    opened === undefined || config.caSecret === undefined
      ? folderCaStore(files)
      : secretCaStore(opened.api, { namespace: ownNamespace(config, opened), name: config.caSecret });
  const byFiles = suppliedByFiles(filesOf(config));
  const readSupplied = async (): Promise<SuppliedCa | undefined> => {
    const name = suppliedName(config, opened);
    if (opened === undefined || name === undefined) return byFiles();
    const found = await readSecret(opened.api, name);
    if (found === undefined) throw new StoreUnreachable(`Secret ${name.namespace}/${name.name}: there is none yet`);
    return suppliedBySecret(found, `Secret ${name.namespace}/${name.name}`);
  };
  const open = async (): Promise<Authority> => {
    const supplied = await readSupplied();
    return Authority.open({ trustDomain: config.trustDomain, store, now: () => clock.now(), supplied });
  };
  let authority: Authority | undefined;
  for (let failures = 0; authority === undefined; ) {
    try {
      authority = await open();
    } catch (error) {
      if (!(error instanceof StoreUnreachable)) throw error;
      if (failures++ % 30 === 0) log.warn("ca_waits", { reason: error.message });
      await clock.sleep(retryMs);
    }
  }
  const opening = authority;
  log.info("ca_opened", { where: store.where, root: opening.describe().find((root) => root.active)?.sha256 ?? "" });
  tellWaiting(opening, log);
  let told = "";
  let isBusy = false;
  const look = async (): Promise<void> => {
    if (isBusy) return;
    isBusy = true;
    try {
      if (store.isShared && (await opening.reload()))
        log.info("ca_reloaded", { where: store.where, phase: opening.phase });
      const wasWaiting = opening.suppliedIsWaiting;
      await opening.supply(await readSupplied());
      if (!wasWaiting) tellWaiting(opening, log);
      told = "";
    } catch (error) {
      metrics.rotationFailures.add({ what: "ca_reload" });
      const reason = messageOf(error);
      if (reason !== told) log.error("ca_not_reloaded", { reason, effect: "what is known stays in force" });
      told = reason;
    } finally {
      isBusy = false;
    }
  };
  return { authority: opening, follow: () => every(clock, followMs, () => void look()) };
}

function tellWaiting(authority: Authority, log: Logger): void {
  if (authority.suppliedIsWaiting)
    log.warn("supplied_root_waits", {
      fix: "another root is in force: rotate to the supplied one with POST /v1/ca/rotate",
    });
}

function suppliedName(config: Config, opened: OpenedApi | undefined): SecretName | undefined {
  const text = config.caSuppliedSecret;
  if (opened === undefined || text === undefined) return undefined;
  const slash = text.indexOf("/");
  return slash < 0
    ? { namespace: ownNamespace(config, opened), name: text }
    : { namespace: text.slice(0, slash), name: text.slice(slash + 1) };
}

const filesOf = (config: Config): Parameters<typeof suppliedByFiles>[0] => ({
  rootCert: config.caRootCertFile,
  rootKey: config.caRootKeyFile,
  intermediateCert: config.caIntermediateCertFile,
  intermediateKey: config.caIntermediateKeyFile,
  pkcs12: config.caRootPkcs12File,
  pkcs12Password: config.caRootPasswordFile,
});
