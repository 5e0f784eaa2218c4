// The whole index -> every resource for agents and a condition for every object. Pure: same input, same output.
import type { MeshResource } from "../../agent/api/resources.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { Condition } from "./conditions.ts";
import { Translator, type TranslatorOptions } from "./translator.ts";
import type { Unenrolled } from "./workloads.ts";

export interface TranslateOptions extends TranslatorOptions {
  readonly unenrolled: Unenrolled;
}
export interface Translated {
  readonly resources: readonly MeshResource[];
  readonly conditions: readonly Condition[];
  readonly settings: MeshSettings;
  readonly allocations: ReadonlyMap<string, readonly string[]>;
}

/** From nothing. Whoever translates the same index again and again keeps a Translator. */
export function translate(index: ClusterIndex, options: TranslateOptions): Translated {
  const translator = new Translator(index, options);
  translator.update(options.unenrolled);
  const { settings, allocations } = translator;
  return { settings, allocations, conditions: translator.conditions(), resources: translator.resources() };
}
