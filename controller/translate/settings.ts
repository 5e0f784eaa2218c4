// MeshSettings objects -> the settings of the mesh. Pure.
import { parseTrustDomain } from "../../agent/api/names.ts";
import { type MeshSettings, type PathNormalization, settingsName } from "../../agent/api/settings.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { MeshSettingsObject } from "../sources/types.ts";
import { accepted, type Condition, refused } from "./conditions.ts";

/** The switch that turns every fault injection off. */
const isFaultSwitch = ({ object }: Indexed<MeshSettingsObject>): boolean =>
  object.metadata.name === settingsName && object.spec.faultInjection === false;

/** Whether faults may be injected at all. */
export const faultsAreOn = (index: ClusterIndex): boolean => !index.all("MeshSettings").some(isFaultSwitch);

/** Only the object named "mesh" counts. */
export function readSettings(
  index: ClusterIndex,
  base: MeshSettings,
): { readonly settings: MeshSettings; readonly conditions: readonly Condition[] } {
  const conditions: Condition[] = [];
  let settings = base;
  for (const entry of index.all("MeshSettings")) {
    if (entry.object.metadata.name !== settingsName) {
      const message = `only the object named "${settingsName}" has an effect`;
      conditions.push(
        refused(entry, "NameNotUsed", { field: "metadata.name", message, fix: `rename it to "${settingsName}"` }),
      );
      continue;
    }
    const aliases = (entry.object.spec.trustDomainAliases ?? []).map(
      (alias) => [alias, parseTrustDomain(alias)] as const,
    );
    const bad = aliases.find(([, parsed]) => !parsed.ok);
    if (bad !== undefined) {
      const message = `"${bad[0].slice(0, 60)}" is not a trust domain`;
      const fix = "use lower-case letters, digits, dots, dashes and underscores";
      conditions.push(refused(entry, "NotSupported", { field: "spec.trustDomainAliases", message, fix }));
      continue;
    }
    settings = {
      ...settings,
      ...given(entry.object.spec),
      pathNormalization: normalizationOf(entry.object.spec) ?? settings.pathNormalization,
      trustDomainAliases: aliases.flatMap(([, p]) => (p.ok ? [p.value] : [])),
    };
    conditions.push(accepted(entry, { resources: [{ kind: "MeshSettings", name: settingsName }] }));
  }
  return { settings, conditions };
}

const normalizationOf = (spec: MeshSettingsObject["spec"]): PathNormalization | undefined =>
  spec.pathNormalization?.toLowerCase() as PathNormalization | undefined;

type Given = Partial<Omit<MeshSettings, "trustDomainAliases" | "pathNormalization">>;
function given(spec: MeshSettingsObject["spec"]): Given {
  const { trustDomainAliases: _, pathNormalization: __, faultInjection: ___, ...rest } = spec;
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as Given;
}
