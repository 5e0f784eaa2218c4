// What a call shows of its caller: the node named in a verified client certificate, and a bearer token that is yet to be checked.
import { type ServerUnaryCall, status } from "@grpc/grpc-js";
import { type NodeName, parseSpiffeId, partsOf, type TrustDomain } from "../../agent/api/names.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { DiscoveryCall } from "./stream.ts";

export interface CallFault {
  readonly code: number;
  readonly message: string;
}
export type AnyCall =
  | Pick<ServerUnaryCall<unknown, unknown>, "getAuthContext" | "getPeer" | "metadata">
  | DiscoveryCall;

/** The certificate was checked by TLS (chain, dates, purpose); here only its name is read. */
export function callingNode(call: AnyCall, trustDomains: readonly TrustDomain[]): Result<NodeName, CallFault> {
  const certificate = call.getAuthContext().sslPeerCertificate;
  if (certificate === undefined) {
    return err({ code: status.UNAUTHENTICATED, message: "no valid node credential: join with a token first" });
  }
  const names = (certificate.subjectaltname ?? "")
    .split(", ")
    .flatMap((name) => (name.startsWith("URI:") ? [name.slice(4)] : []));
  const [only = ""] = names;
  const id = parseSpiffeId(only);
  if (names.length !== 1 || !id.ok)
    return err({ code: status.PERMISSION_DENIED, message: "the certificate names no identity of this mesh" });
  const parts = partsOf(id.value);
  if (parts.kind !== "node" || !trustDomains.includes(parts.trustDomain)) {
    return err({ code: status.PERMISSION_DENIED, message: `${only} is not a node of this mesh` });
  }
  return ok(parts.node);
}

/** The token of "authorization: Bearer TOKEN" (RFC 6750 §2.1); undefined when there is none or more than one. */
export function bearerToken(call: AnyCall): string | undefined {
  const [only, ...more] = call.metadata.get("authorization");
  if (typeof only !== "string" || more.length > 0) return undefined;
  return /^bearer +([^ ]+)$/i.exec(only.trim())?.[1];
}
