// The node's CNI configuration with our plugin as its last one: texts in, text out. The file that is made this way stands before all others
// in the folder, so it is the one in force, and the original is never touched: its owner may write it anew at any time, also while no
// agent runs (docs/cni.md).
import { err, ok, type Result } from "../base/result.ts";

export const pluginType = "fairlead-cni";
/** Sorts before every name that begins with a digit or a letter: runtimes take the first file of the folder. */
export const ownFile = "0-fairlead.conflist";
/** Longer ones are no configuration. */
export const maxConfigBytes = 1 << 20;

export interface PluginEntry {
  /** Path of the agent's socket on the node. */
  readonly socket: string;
  /** Pods of these start without an agent (DP-22). */
  readonly excludedNamespaces: readonly string[];
}

/** Versions whose results can be chained; native/cni/src/config.rs has the same. */
const versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

type Json = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Files of the folder that runtimes read, ours left out, in their order; the first one is the network of the node's pods. */
export function configFiles(names: readonly string[]): readonly string[] {
  // Byte order, as Go sorts; one that is being written has another ending or none.
  return names.filter((name) => /\.(conf|conflist|json)$/.test(name) && name !== ownFile).sort(byBytes);
}
const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** Whether a runtime would take this file before ours. */
export const isBeforeOurs = (name: string): boolean => byBytes(name, ownFile) < 0;

/**
 * Another's configuration (a list, or a single plugin) with our plugin as the last one. The error says what is wrong with the text.
 * Fields that we do not know are carried on as they are.
 */
export function chained(text: string, entry: PluginEntry): Result<string, string> {
  if (text.length > maxConfigBytes) return err(`is longer than ${maxConfigBytes} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    return err(`is not JSON: ${(error as Error).message}`);
  }
  if (!isObject(json)) return err("is not a JSON object");
  const list = asList(json);
  if (!list.ok) return list;
  const { cniVersion, name, plugins, ...rest } = list.value;
  if (typeof cniVersion !== "string" || !versions.includes(cniVersion))
    return err(`cniVersion: ${JSON.stringify(cniVersion)} is none of ${versions.join(", ")}`);
  if (typeof name !== "string" || name === "") return err("name: is missing");
  const others = plugins.filter((plugin) => plugin.type !== pluginType);
  if (others.length === 0) return err("plugins: has no plugin but ours");
  const own = { type: pluginType, ...entry };
  return ok(`${JSON.stringify({ cniVersion, name, ...rest, plugins: [...others, own] }, null, 2)}\n`);
}

interface List extends Json {
  readonly plugins: readonly Json[];
}
/** A single plugin's configuration is a list of one: version and name are the list's, all else is the plugin's. */
function asList(json: Json): Result<List, string> {
  if (json.plugins === undefined) {
    if (typeof json.type !== "string") return err("has neither plugins nor a type");
    const { cniVersion, name, ...plugin } = json;
    return ok({ cniVersion, name, plugins: [plugin] });
  }
  const plugins = json.plugins;
  if (!Array.isArray(plugins) || !plugins.every(isObject)) return err("plugins: is not a list of objects");
  const nameless = plugins.findIndex((plugin) => typeof plugin.type !== "string" || plugin.type === "");
  if (nameless >= 0) return err(`plugins[${nameless}].type: is missing`);
  return ok({ ...json, plugins });
}
