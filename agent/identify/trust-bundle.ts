// The roots that peers are checked against, as native is told: one bundle per trust domain, aliases, one generation for all.
import type { TrustBundle } from "../api/trust.ts";
import type { MeshState } from "../state/mesh-state.ts";

export interface TrustPut {
  readonly bundles: readonly { readonly trustDomain: string; readonly rootsPem: readonly string[] }[];
  readonly aliases: readonly string[];
  /** Grows with every change; tunnels made under an older one take no new stream (DP-15). */
  readonly generation: number;
}

/** `previous` is what native has; undefined when nothing changed. */
export function trustFor(state: MeshState, previous: TrustPut | undefined): TrustPut | undefined {
  const bundles = [...state.bundles.values()]
    .sort((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1))
    .map(({ trustDomain, rootsPem }) => ({ trustDomain, rootsPem }));
  const aliases = state.settings.trustDomainAliases;
  const same =
    previous !== undefined &&
    JSON.stringify([previous.bundles, previous.aliases]) === JSON.stringify([bundles, aliases]);
  if (same || bundles.length === 0) return undefined;
  return { bundles, aliases, generation: (previous?.generation ?? 0) + 1 };
}

/** Generation of the mesh's own roots, by which SVIDs are renewed after a rotation. */
export function ownTrustGeneration(state: MeshState): number {
  const own: TrustBundle | undefined = state.bundles.get(state.settings.trustDomain);
  return own?.generation ?? 0;
}
