// Identity as one part: the node's credential, the SVIDs of the pods here, the roots that peers are checked against.
import type { SpiffeId } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import type { Config } from "../config.ts";
import { createCaClient } from "../identify/ca-client.ts";
import { NodeCredentials } from "../identify/node-credential.ts";
import { SvidFiles } from "../identify/svid-files.ts";
import { SvidStore } from "../identify/svid-store.ts";
import { ownTrustGeneration, type TrustPut, trustFor } from "../identify/trust-bundle.ts";
import type { EnrolledPod } from "../intercept/enrol.ts";
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
}

export class Certificates {
  readonly #parts: CertificatesParts;
  readonly node: NodeCredentials;
  readonly svids: SvidStore;
  readonly #stop = new AbortController();
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
    this.svids = new SvidStore({
      ca: createCaClient(() => link.certificates(), config.callMs, clock.now),
      files: new SvidFiles(config.runDir),
      clock,
      random,
      log,
      settings: () => ({ renewAt: state.settings.renewAt, graceMs: config.svidGraceMs }),
      push: ({ identity, chainPem, keyPem, notAfterMs }, generation) =>
        native.call("svid.put", { identity, chainPem, keyPem, generation, notAfterMs }),
      withdraw: (identity) => native.call("svid.remove", { identity }),
      failed: () => failures.add({}),
      rotated: () => rotations.add({}),
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
      const current = this.node.current();
      gauge.set({}, current.ok ? current.value.notAfterMs / 1000 : 0);
    });
  }

  status() {
    const node = this.node.current();
    return {
      svids: this.svids.statuses(),
      node: node.ok ? { notAfterMs: node.value.notAfterMs } : { problem: node.error },
      trust: {
        generation: this.#trust?.generation ?? 0,
        domains: this.#trust?.bundles.map((b) => ({ trustDomain: b.trustDomain, roots: b.rootsPem.length })) ?? [],
      },
    };
  }

  /** What an earlier agent left: the node's credential, SVIDs, and the roots that came with the cache. */
  async load(): Promise<void> {
    await this.node.load();
    await this.svids.load();
    await this.trustChanged();
  }

  start(): void {
    void this.node.run(this.#stop.signal);
  }

  /** The SVIDs that the enrolled pods need. */
  want(pods: readonly EnrolledPod[]): void {
    this.svids.want(new Set(pods.map((pod) => pod.identity)));
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
    this.#pushingTrust = this.#pushingTrust.then(async () => {
      const { native, state, log, link } = this.#parts;
      link.setRoots(state.bundles.get(state.settings.trustDomain)?.rootsPem.join("\n") ?? "");
      const next = trustFor(state, this.#trust);
      if (next === undefined) return;
      const put = await native.call("trust.put", next);
      if (put.ok) this.#trust = next;
      else log.error("trust_not_put", { ...put.error });
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
