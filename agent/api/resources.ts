// The resource types of the discovery stream: type URL, name, and bytes <-> checked record. Both ends use this table and nothing else.
import type { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { err } from "../base/result.ts";
import type { Decoded } from "./fields.ts";
import { type HttpRouting, httpRoutingFromWire, httpRoutingToWire, routingServiceOf } from "./http-routing.ts";
import * as wire from "./mesh.gen.ts";
import {
  type Authorization,
  authorizationFromWire,
  authorizationToWire,
  policyNameOf,
  type TrafficPolicy,
  trafficPolicyFromWire,
  trafficPolicyToWire,
} from "./policy.ts";
import { type RateLimit, rateLimitFromWire, rateLimitToWire } from "./rate-limit.ts";
import { type Service, serviceFromWire, serviceNameOf, serviceToWire } from "./service.ts";
import { type MeshSettings, settingsFromWire, settingsName, settingsToWire } from "./settings.ts";
import { type TrustBundle, trustBundleFromWire, trustBundleToWire } from "./trust.ts";
import { type Workload, workloadFromWire, workloadToWire } from "./workload.ts";

export interface ResourceTypes {
  readonly Workload: Workload;
  readonly Service: Service;
  readonly Authorization: Authorization;
  readonly TrafficPolicy: TrafficPolicy;
  readonly HttpRouting: HttpRouting;
  readonly RateLimit: RateLimit;
  readonly TrustBundle: TrustBundle;
  readonly MeshSettings: MeshSettings;
}
export type ResourceKind = keyof ResourceTypes;
export type MeshResource = {
  [K in ResourceKind]: { readonly kind: K; readonly value: ResourceTypes[K] };
}[ResourceKind];

export interface Codec<T> {
  readonly typeUrl: string;
  /** Name of the resource on the stream. */
  nameOf(value: T): string;
  encode(value: T): Uint8Array;
  /** Never throws: broken bytes are a problem with the path "". */
  decode(bytes: Uint8Array): Decoded<T>;
}

interface Message<W> {
  encode(message: W): BinaryWriter;
  decode(input: BinaryReader | Uint8Array): W;
}

export const typeUrlOf = (kind: string): string => `type.googleapis.com/fairlead.v1.${kind}`;

function codec<W, T>(
  kind: ResourceKind,
  message: Message<W>,
  from: (w: W) => Decoded<T>,
  to: (t: T) => W,
  nameOf: (t: T) => string,
): Codec<T> {
  return {
    typeUrl: typeUrlOf(kind),
    nameOf,
    encode: (value) => message.encode(to(value)).finish(),
    decode(bytes) {
      let decoded: W;
      try {
        decoded = message.decode(bytes);
      } catch (error) {
        return err([{ path: "", message: `not a ${kind}: ${(error as Error).message}` }]);
      }
      return from(decoded);
    },
  };
}

export const codecs: { readonly [K in ResourceKind]: Codec<ResourceTypes[K]> } = {
  Workload: codec("Workload", wire.Workload, workloadFromWire, workloadToWire, (w) => w.uid),
  Service: codec("Service", wire.Service, serviceFromWire, serviceToWire, serviceNameOf),
  Authorization: codec("Authorization", wire.Authorization, authorizationFromWire, authorizationToWire, policyNameOf),
  TrafficPolicy: codec("TrafficPolicy", wire.TrafficPolicy, trafficPolicyFromWire, trafficPolicyToWire, policyNameOf),
  HttpRouting: codec("HttpRouting", wire.HttpRouting, httpRoutingFromWire, httpRoutingToWire, routingServiceOf),
  RateLimit: codec("RateLimit", wire.RateLimit, rateLimitFromWire, rateLimitToWire, policyNameOf),
  TrustBundle: codec("TrustBundle", wire.TrustBundle, trustBundleFromWire, trustBundleToWire, (b) => b.trustDomain),
  MeshSettings: codec("MeshSettings", wire.MeshSettings, settingsFromWire, settingsToWire, () => settingsName),
};

export const resourceKinds = Object.keys(codecs) as readonly ResourceKind[];
const kindsByUrl = new Map(resourceKinds.map((kind) => [codecs[kind].typeUrl, kind]));
export const kindOfTypeUrl = (typeUrl: string): ResourceKind | undefined => kindsByUrl.get(typeUrl);

/** Decodes by kind into the tagged union. */
export function decodeResource(kind: ResourceKind, bytes: Uint8Array): Decoded<MeshResource> {
  const result = codecs[kind].decode(bytes);
  return result.ok ? { ok: true, value: { kind, value: result.value } as MeshResource } : result;
}

export function encodeResource(resource: MeshResource): Uint8Array {
  return (codecs[resource.kind] as Codec<typeof resource.value>).encode(resource.value);
}

export function resourceName(resource: MeshResource): string {
  return (codecs[resource.kind] as Codec<typeof resource.value>).nameOf(resource.value);
}
