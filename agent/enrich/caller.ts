// Who calls on one connection: what its proven identity and discovery say, then what headers of a trusted peer add. Worked out once per
// connection and lifetime of the cache, headers anew when they change. Pure.
import { type EnricherSettings, type MeshFeatures, type MeshKey, meshKeys } from "../api/enricher.ts";
import { partsOf, type SpiffeId, splitPair } from "../api/names.ts";
import { identityOf, type Workload } from "../api/workload.ts";
import { type Cidr, cidrContains, parseCidr, parseIp } from "../base/ip.ts";
import type { RequestHead } from "../http.ts";
import { meshValue } from "./values.ts";

export interface CallerFacts {
  /** As proven; null: nothing was. */
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
  /** What discovery has at the address. */
  readonly claimed: Workload | undefined;
}

const cached = meshKeys.filter((key) => key !== "trace_id");

export class Caller {
  readonly #settings: EnricherSettings;
  readonly #expiresMs: number;
  readonly #verified: MeshFeatures;
  readonly #isTrusted: boolean;
  #headers = "";
  #features: MeshFeatures;

  constructor(settings: EnricherSettings, facts: CallerFacts, nowMs: number) {
    this.#settings = settings;
    this.#expiresMs = nowMs + settings.mesh_cache_ttl_seconds * 1000;
    this.#verified = verifiedFeatures(facts);
    this.#isTrusted = trustsPeer(settings, facts);
    this.#features = this.#verified;
  }

  /** Whether it may still be asked. */
  isFresh(settings: EnricherSettings, nowMs: number): boolean {
    return this.#settings === settings && nowMs < this.#expiresMs;
  }

  /** All but the trace id; the same object for the same headers. */
  features(head: RequestHead): MeshFeatures {
    if (!this.#isTrusted) return this.#verified;
    const { mesh_header_map: map } = this.#settings;
    let headers = "";
    for (let i = 0; i < cached.length; i++) {
      const header = map[cached[i] as MeshKey];
      headers += `${header === undefined ? "" : (head.header(header) ?? "")}\n`;
    }
    if (headers !== this.#headers) {
      this.#headers = headers;
      this.#features = { ...headerFeatures(map, head), ...this.#verified };
    }
    return this.#features;
  }

  traceId(head: RequestHead): string | undefined {
    const header = this.#settings.mesh_header_map.trace_id;
    const raw = header === undefined ? undefined : head.header(header);
    return header === undefined || raw === undefined ? undefined : meshValue("trace_id", header, raw);
  }
}

function headerFeatures(map: EnricherSettings["mesh_header_map"], head: RequestHead): MeshFeatures {
  const found: Partial<Record<MeshKey, string>> = {};
  for (const key of cached) {
    const header = map[key];
    const raw = header === undefined ? undefined : head.header(header);
    const value = header === undefined || raw === undefined ? undefined : meshValue(key, header, raw);
    if (value !== undefined) found[key] = value;
  }
  return found;
}

/** The workload at the address is believed only if it has the identity that was proven. */
function verifiedFeatures({ identity, claimed }: CallerFacts): MeshFeatures {
  const parts = identity === null ? undefined : partsOf(identity);
  if (identity === null || parts?.kind !== "workload") return {};
  const base: MeshFeatures = { namespace: parts.namespace, mesh_source: identity };
  if (claimed === undefined || identityOf(claimed) !== identity) return base;
  const [first] = claimed.services.map(({ service }) => service).sort();
  return {
    ...base,
    workload: workloadName(claimed),
    pod: claimed.name,
    ...(first === undefined ? {} : { service: splitPair(first)[1] }),
    ...(claimed.zone === "" ? {} : { zone: claimed.zone }),
  };
}

/** Pods of one workload share the name that they are known by (Istio's canonical name). */
const workloadName = ({ labels, name }: Workload): string =>
  labels["service.istio.io/canonical-name"] ?? labels["app.kubernetes.io/name"] ?? labels.app ?? name;

export function trustsPeer(settings: EnricherSettings, { identity, sourceIp }: CallerFacts): boolean {
  const principal = identity?.slice("spiffe://".length);
  const address = parseIp(sourceIp);
  return settings.mesh_trusted_peers.some((peer) => {
    const block: Cidr | undefined = parseCidr(peer);
    if (block !== undefined) return address !== undefined && cidrContains(block, address);
    return principal !== undefined && matchesPattern(peer, principal);
  });
}

/** "*", exact, "prefix*" or "*suffix". */
function matchesPattern(pattern: string, text: string): boolean {
  if (pattern === "*") return true;
  if (pattern.endsWith("*")) return text.startsWith(pattern.slice(0, -1));
  if (pattern.startsWith("*")) return text.endsWith(pattern.slice(1));
  return text === pattern;
}
