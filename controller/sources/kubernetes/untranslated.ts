// Kinds that people expect a mesh to act on, and that nothing here translates: their objects are told of in status and log, where their
// definitions are installed, so that none is passed over in silence. Only their names are read.

import { type Mirror, Reflector } from "../../../agent/kubernetes/reflector.ts";
import type { RawObject } from "../../../agent/kubernetes/wire.ts";
import type { Ignored } from "../types.ts";
import { Installed, type InstalledOptions, type InstalledParts } from "./installed.ts";
import { type Collected, clusterOrigin, pathOf } from "./resources.ts";

export interface UntranslatedKind extends Collected {
  readonly kind: string;
  readonly isNamespaced: boolean;
  /** What it means that the object is there. */
  readonly note: string;
}

const gateway = "gateway.networking.k8s.io";
const networking = "networking.istio.io";
const security = "security.istio.io";
const ofGateways = "belongs to a gateway: the mesh acts on routes whose parents are Services alone";
const useRoutes = "nothing of it is translated: write an HTTPRoute or a ResiliencePolicy";
const nothing = "nothing of it is translated";
const kind = (
  group: string,
  versions: readonly string[],
  name: string,
  plural: string,
  note: string,
  isNamespaced = true,
): UntranslatedKind => ({ kind: name, group, versions, plural, note, isNamespaced });
const istio = ["v1", "v1beta1", "v1alpha3"];

export const untranslatedKinds: readonly UntranslatedKind[] = [
  kind(gateway, ["v1", "v1beta1"], "Gateway", "gateways", ofGateways),
  kind(gateway, ["v1", "v1beta1"], "GatewayClass", "gatewayclasses", ofGateways, false),
  kind(networking, istio, "VirtualService", "virtualservices", useRoutes),
  kind(networking, istio, "DestinationRule", "destinationrules", useRoutes),
  kind(networking, istio, "ServiceEntry", "serviceentries", nothing),
  kind(networking, istio, "Sidecar", "sidecars", nothing),
  kind(networking, ["v1alpha3"], "EnvoyFilter", "envoyfilters", nothing),
  kind(
    security,
    ["v1", "v1beta1"],
    "RequestAuthentication",
    "requestauthentications",
    "tokens of requests are not read: nobody is refused by it",
  ),
];

export interface UntranslatedParts extends Omit<InstalledParts<UntranslatedKind>, "changed"> {
  /** All such objects that there are at present. */
  readonly changed: (ignored: readonly Ignored[]) => void;
}
/** So many objects of a kind are named; the rest is in the log's count. */
const named = 1000;

export class Untranslated {
  readonly #options: Omit<InstalledOptions<UntranslatedKind>, "resources">;
  readonly #parts: UntranslatedParts;
  readonly #installed: Installed<UntranslatedKind>;
  readonly #followed = new Map<string, { readonly reflector: Reflector; readonly names: Map<string, Ignored> }>();
  readonly #stopping: Promise<void>[] = [];

  constructor(options: Omit<InstalledOptions<UntranslatedKind>, "resources">, parts: UntranslatedParts) {
    this.#options = options;
    this.#parts = parts;
    this.#installed = new Installed(
      { ...options, resources: untranslatedKinds },
      { ...parts, changed: (resource, version) => this.#follow(resource, version) },
    );
  }
  start(): void {
    this.#installed.start();
  }
  async stop(): Promise<void> {
    const followed = [...this.#followed.values()].map(({ reflector }) => reflector.stop());
    await Promise.all([this.#installed.stop(), ...followed, ...this.#stopping]);
  }

  #follow(resource: UntranslatedKind, version: string | undefined): void {
    const key = `${resource.plural}.${resource.group}`;
    const before = this.#followed.get(key);
    if (before !== undefined) this.#stopping.push(before.reflector.stop());
    this.#followed.delete(key);
    if (version === undefined) {
      this.#tell();
      return;
    }
    const names = new Map<string, Ignored>();
    const partial = "application/json;as=PartialObjectMetadata";
    const reflector = new Reflector(
      {
        ...this.#options,
        name: resource.kind,
        path: pathOf(resource, version),
        acceptList: `${partial}List;g=meta.k8s.io;v=v1,application/json`,
        acceptWatch: `${partial};g=meta.k8s.io;v=v1,application/json`,
      },
      { ...this.#parts, mirror: this.#mirror(resource, names) },
    );
    this.#followed.set(key, { reflector, names });
    reflector.start();
  }
  #mirror(resource: UntranslatedKind, names: Map<string, Ignored>): Mirror {
    const { log } = this.#parts;
    let staged: RawObject[] = [];
    const keyOf = ({ metadata }: RawObject): string => `${metadata.namespace ?? ""}/${metadata.name}`;
    const take = (raw: RawObject): boolean => {
      const key = keyOf(raw);
      if (names.has(key) || names.size >= named) return false;
      const object = { kind: resource.kind, namespace: raw.metadata.namespace ?? "", name: raw.metadata.name };
      names.set(key, { ...clusterOrigin, object, note: resource.note });
      return true;
    };
    return {
      stage: (items) => void staged.push(...items),
      commit: () => {
        const there = new Set(staged.map(keyOf));
        for (const key of names.keys()) if (!there.has(key)) names.delete(key);
        for (const raw of staged) take(raw);
        if (staged.length > 0)
          log.warn("kubernetes_kind_untranslated", {
            kind: resource.kind,
            group: resource.group,
            objects: staged.length,
            effect: resource.note,
          });
        staged = [];
        this.#tell();
      },
      discard: () => {
        staged = [];
      },
      put: (raw) => {
        if (!take(raw)) return;
        const { kind: what, group, note } = resource;
        log.warn("kubernetes_kind_untranslated", { kind: what, group, object: keyOf(raw), effect: note });
        this.#tell();
      },
      remove: (raw) => {
        if (names.delete(keyOf(raw))) this.#tell();
      },
    };
  }
  #tell(): void {
    this.#parts.changed([...this.#followed.values()].flatMap(({ names }) => [...names.values()]));
  }
}
