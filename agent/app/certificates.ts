// Identity as one part: the node's credential, the SVIDs of the pods here, the roots that peers are checked against.
import { readFileSync } from "node:fs";
import type { SpiffeId } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import type { Config } from "../config.ts";
import { type CertificateAuthority, createCaClient } from "../identify/ca-client.ts";
import { NodeCredentials } from "../identify/node-credential.ts";
import { SvidFiles } from "../identify/svid-files.ts";
import { SvidStore } from "../identify/svid-store.ts";
import { tokenExpiry } from "../identify/token-file.ts";
import { ownTrustGeneration, type TrustPut, trustFor } from "../identify/trust-bundle.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import type { Native } from "../native.ts";
import { metricNames } from "../report/metric-names.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { ControllerLink } from "./controller-link.ts";

export interface CertificatesParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly native: Native;
  readonly state: MeshState;
  readonly link: ControllerLink;
  /** An identity has its first SVID: its pods can be told of. */
  readonly arrived: () => void;
}

export class Certificates {
  readonly #parts: CertificatesParts;
  readonly node: NodeCredentials;
  readonly svids: SvidStore;
  /** What applications ask for by the Workload API. */
  readonly authority: CertificateAuthority;
  readonly #listeners = new Set<() => void>();
  readonly #stop = new AbortController();
  /** Identities that have had an SVID here for as long as pods have needed them. */
  readonly #proven = new Set<SpiffeId>();
  #trust: TrustPut | undefined;
  #pushingTrust: Promise<void> = Promise.resolve();

  constructor(parts: CertificatesParts) {
    this.#parts = parts;
    const { config, clock, random, log, metrics, native, state, link } = parts;
    const failures = metrics.counter(metricNames.svidFailures);
    const rotations = metrics.counter(metricNames.svidRotations);
    this.node = new NodeCredentials({
      node: config.node,
      trustDomain: config.trustDomain,
      runDir: config.runDir,
      tokenFile: config.joinTokenFile,
      service: link.joinService,
      clock,
      random,
      log,
      changed: (credential) => {
        link.setCredential(credential);
        this.svids.retryNow();
      },
    });
    this.authority = createCaClient(() => link.certificates(), config.callMs, clock.now);
    this.svids = new SvidStore({
      ca: this.authority,
      files: new SvidFiles(config.runDir),
      clock,
      random,
      log,
      settings: () => ({ renewAt: state.settings.renewAt, graceMs: config.svidGraceMs }),
      push: async ({ identity, chainPem, keyPem, notAfterMs }, generation) => {
        const put = await native.call("svid.put", { identity, chainPem, keyPem, generation, notAfterMs });
        if (put.ok && !this.#proven.has(identity as SpiffeId)) {
          this.#proven.add(identity as SpiffeId);
          parts.arrived();
        }
        return put;
      },
      withdraw: (identity, why) => {
        // One that is lost is missed still: its pods' peers must wait for the next one, and not speak plainly meanwhile (DP-9).
        if (why === "unneeded") this.#proven.delete(identity);
        return native.call("svid.remove", { identity });
      },
      failed: () => failures.add({}),
      rotated: () => rotations.add({}),
      arrived: () => this.#changed(),
    });
    metrics.gaugeOf(metricNames.svidExpiry, (gauge) => {
      gauge.clear();
      for (const { identity, notAfterMs } of this.svids.statuses())
        if (notAfterMs !== undefined) gauge.set({ identity }, notAfterMs / 1000);
    });
    metrics.gaugeOf(metricNames.certExpiry, (gauge) => {
      gauge.clear();
      const ends = this.svids.statuses().flatMap(({ notAfterMs }) => notAfterMs ?? []);
      if (ends.length > 0) gauge.set({}, Math.max(0, (Math.min(...ends) - clock.now()) / 1000));
    });
    metrics.gaugeOf(metricNames.nodeCredentialExpiry, (gauge) => {
      gauge.set({}, this.#nodeExpiryMs() / 1000);
    });
  }

  status() {
    return {
      svids: this.svids.statuses(),
      node: this.#nodeStatus(),
      trust: {
        generation: this.#trust?.generation ?? 0,
        domains: this.#trust?.bundles.map((b) => ({ trustDomain: b.trustDomain, roots: b.rootsPem.length })) ?? [],
      },
    };
  }

  #nodeStatus(): Readonly<Record<string, unknown>> {
    if (this.#parts.config.tokenFile !== "")
      return { tokenFile: this.#parts.config.tokenFile, notAfterMs: this.#nodeExpiryMs() };
    const node = this.node.current();
    return node.ok ? { notAfterMs: node.value.notAfterMs } : { problem: node.error };
  }

  /** End of what the node shows to the controller; 0 when there is nothing. */
  #nodeExpiryMs(): number {
    const { tokenFile } = this.#parts.config;
    if (tokenFile === "") {
      const current = this.node.current();
      return current.ok ? current.value.notAfterMs : 0;
    }
    try {
      return tokenExpiry(readFileSync(tokenFile, "utf8"));
    } catch {
      return 0;
    }
  }

  /** What an earlier agent left: the node's credential, SVIDs, and the roots that came with the cache. */
  async load(): Promise<void> {
    if (this.#parts.config.tokenFile === "") await this.node.load();
    await this.svids.load();
    await this.trustChanged();
  }

  start(): void {
    if (this.#parts.config.tokenFile === "") void this.node.run(this.#stop.signal);
  }

  /**
   * Pods as other nodes are to hear of them: one whose identity has had no SVID here yet cannot take a tunnel, so its tunnel is not announced
   * (DP-9). Once it was it stays, whatever becomes of the SVID: who keeps the CA away must not get plain connections for it.
   */
  toTell(statuses: readonly PodStatus[]): readonly PodStatus[] {
    return statuses.map((status) =>
      !status.enrolled || this.#proven.has(status.identity as SpiffeId)
        ? status
        : { ...status, enrolled: false, reason: "it has no certificate yet" },
    );
  }

  /** Calls `changed` when SVIDs, trust bundles or the pods here may have changed. */
  onChange(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }
  #changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  /** The SVIDs that the enrolled pods need. */
  want(identities: readonly SpiffeId[]): void {
    this.svids.want(new Set(identities));
    this.#changed();
  }

  /** Whether an SVID of the identity has been here. */
  has(identity: SpiffeId): boolean {
    return this.#proven.has(identity);
  }

  /** The first complete list of pods is in: SVIDs of an earlier agent that none of them needs go. */
  settled(): Promise<void> {
    return this.svids.dropUnneeded();
  }

  /** Waits until each has an SVID or `ms` have passed. */
  async ready(identities: readonly SpiffeId[], ms: number): Promise<void> {
    await Promise.all([...new Set(identities)].map((identity) => this.svids.ready(identity, ms)));
  }

  /** Bundles or aliases may have changed: native first, then SVIDs of older roots are renewed. */
  trustChanged(): Promise<void> {
    this.#changed();
    this.#pushingTrust = this.#pushingTrust.then(async () => {
      const { native, state, log, link } = this.#parts;
      link.setRoots(state.bundles.get(state.settings.trustDomain)?.rootsPem.join("\n") ?? "");
      const next = trustFor(state, this.#trust);
      if (next !== undefined) {
        const put = await native.call("trust.put", next);
        if (put.ok) this.#trust = next;
        else log.error("trust_not_put", { ...put.error });
      }
      // Also where the roots are the same: another of them signs now.
      this.svids.trustChanged(ownTrustGeneration(state));
    });
    return this.#pushingTrust;
  }

  /** Nothing is fetched, kept or removed any more: the files are the successor's. */
  stop(): void {
    this.#stop.abort();
    this.svids.stop();
  }
}
