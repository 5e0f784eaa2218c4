// Settings of the whole mesh, one resource named "mesh". Wire form in mesh.proto.
import { defaultEnricher, type EnricherSettings, enricherFromWire, enricherToWire } from "./enricher.ts";
import { checkFields, type Decoded, shorten } from "./fields.ts";
import type * as wire from "./mesh.gen.ts";
import { defaultTrustDomain, parseTrustDomain, type TrustDomain } from "./names.ts";

/** How a path is read before policies are matched (Istio's ProxyPathNormalization). */
export type PathNormalization = (typeof pathNormalizations)[number];
export const pathNormalizations = ["none", "base", "merge_slashes", "decode_and_merge_slashes"] as const;

export interface MeshSettings {
  readonly trustDomain: TrustDomain;
  readonly trustDomainAliases: readonly TrustDomain[];
  readonly clusterDomain: string;
  readonly excludedPorts: readonly number[];
  readonly excludedCidrs: readonly string[];
  readonly serverFirstPorts: readonly number[];
  readonly svidTtlMs: number;
  /** Share of a certificate's life after which it is renewed, 0.1 to 0.8. */
  readonly renewAt: number;
  /** Age at which policies from the disk no longer let STRICT workloads run open. */
  readonly maxStaleMs: number;
  readonly unmeshedNamespaces: readonly string[];
  /** Refuse destinations that the registry does not know. */
  readonly registryOnly: boolean;
  /** Addresses of the mesh's nodes, canonical: a service's node port is reached at each of them. */
  readonly nodeAddresses: readonly string[];
  readonly pathNormalization: PathNormalization;
  /** The address that remoteIpBlocks mean is this many entries from the right of X-Forwarded-For; 0: the connection's own source. */
  readonly trustedProxies: number;
  readonly enricher: EnricherSettings;
}

export const settingsName = "mesh";
export const defaultSettings: MeshSettings = {
  trustDomain: defaultTrustDomain,
  trustDomainAliases: [],
  clusterDomain: "cluster.local",
  excludedPorts: [],
  excludedCidrs: [],
  // MySQL, SMTP, submission, POP3, IMAP, FTP: protocols whose server greets first.
  serverFirstPorts: [3306, 25, 587, 110, 143, 21],
  svidTtlMs: 86_400_000,
  renewAt: 0.5,
  maxStaleMs: 86_400_000,
  unmeshedNamespaces: ["kube-system", "fairlead-system"],
  registryOnly: false,
  nodeAddresses: [],
  pathNormalization: "base",
  trustedProxies: 0,
  enricher: defaultEnricher,
};

export function settingsFromWire(message: wire.MeshSettings): Decoded<MeshSettings> {
  const fields = checkFields();
  const domain = (path: string, text: string): TrustDomain =>
    fields.parsed(path, parseTrustDomain(text), defaultTrustDomain);
  if (!(message.renewAt >= 0.1 && message.renewAt <= 0.8))
    fields.problem("renew_at", `${message.renewAt} is not within 0.1 to 0.8`);
  if (message.svidTtlMs < 1000) fields.problem("svid_ttl_ms", `${message.svidTtlMs} is under 1000`);
  const normalization = pathNormalizations.find((mode) => mode === message.pathNormalization);
  if (normalization === undefined && message.pathNormalization !== "")
    fields.problem(
      "path_normalization",
      `"${shorten(message.pathNormalization)}" is none of ${pathNormalizations.join(", ")}`,
    );
  if (message.trustedProxies > 100) fields.problem("trusted_proxies", `${message.trustedProxies} is over 100`);
  return fields.finish<MeshSettings>({
    trustDomain: domain("trust_domain", message.trustDomain),
    trustDomainAliases: message.trustDomainAliases.map((alias, i) => domain(`trust_domain_aliases[${i}]`, alias)),
    clusterDomain: fields.name("cluster_domain", message.clusterDomain),
    excludedPorts: message.excludedPorts.map((port, i) => fields.port(`excluded_ports[${i}]`, port)),
    excludedCidrs: message.excludedCidrs.map((cidr, i) => fields.cidr(`excluded_cidrs[${i}]`, cidr)),
    serverFirstPorts: message.serverFirstPorts.map((port, i) => fields.port(`server_first_ports[${i}]`, port)),
    svidTtlMs: message.svidTtlMs,
    renewAt: message.renewAt,
    maxStaleMs: message.maxStaleMs,
    unmeshedNamespaces: message.unmeshedNamespaces.map((name, i) => fields.name(`unmeshed_namespaces[${i}]`, name)),
    registryOnly: message.registryOnly,
    nodeAddresses: message.nodeAddresses.map((address, i) => fields.address(`node_addresses[${i}]`, address)),
    pathNormalization: normalization ?? defaultSettings.pathNormalization,
    trustedProxies: message.trustedProxies,
    enricher: enricherFromWire(fields, message.enricher),
  });
}

export function settingsToWire(settings: MeshSettings): wire.MeshSettings {
  return {
    ...settings,
    trustDomainAliases: [...settings.trustDomainAliases],
    excludedPorts: [...settings.excludedPorts],
    excludedCidrs: [...settings.excludedCidrs],
    serverFirstPorts: [...settings.serverFirstPorts],
    unmeshedNamespaces: [...settings.unmeshedNamespaces],
    nodeAddresses: [...settings.nodeAddresses],
    enricher: enricherToWire(settings.enricher),
  };
}
