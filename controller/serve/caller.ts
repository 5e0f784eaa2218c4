// What a call shows of its caller: the node named in a verified client certificate, and a bearer token that is yet to be checked.
import { type ServerUnaryCall, status } from "@grpc/grpc-js";
import { type NodeName, type ParsedSpiffeId, parseSpiffeId, partsOf, type TrustDomain } from "../../agent/api/names.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { DiscoveryCall } from "./stream.ts";

export interface CallFault {
  readonly code: number;
  readonly message: string;
}
export type AnyCall =
  | Pick<ServerUnaryCall<unknown, unknown>, "getAuthContext" | "getPeer" | "metadata">
  | DiscoveryCall;

/** Who the certificate of a connection names, and the name as it is written there. */
type Named = Result<{ readonly parts: ParsedSpiffeId; readonly text: string }, CallFault>;
/** Read once for each connection: reading costs as much as checking a signature, and TLS 1.3 as served here asks for no other certificate later. */
const named = new WeakMap<object, Named>();

/**
 * What a connection is known by, for as long as it is open. The library keeps it to itself: where a version of it has none here, certificates
 * are read with every call.
 */
function connectionOf(call: AnyCall): object | undefined {
  const { stream } =
    (call as { readonly call?: { readonly stream?: { readonly session?: object | null } } }).call ?? {};
  return stream?.session ?? undefined;
}

/** The certificate was checked by TLS (chain, dates, purpose); here only its name is read. */
function nameOf(call: AnyCall): Named {
  const certificate = call.getAuthContext().sslPeerCertificate;
  if (certificate === undefined)
    return err({ code: status.UNAUTHENTICATED, message: "no valid node credential: join with a token first" });
  const names = (certificate.subjectaltname ?? "")
    .split(", ")
    .flatMap((name) => (name.startsWith("URI:") ? [name.slice(4)] : []));
  const [text = ""] = names;
  const id = parseSpiffeId(text);
  return names.length === 1 && id.ok
    ? ok({ parts: partsOf(id.value), text })
    : err({ code: status.PERMISSION_DENIED, message: "the certificate names no identity of this mesh" });
}

/** The node whose certificate the caller's connection has shown. */
export function callingNode(call: AnyCall, trustDomains: readonly TrustDomain[]): Result<NodeName, CallFault> {
  const connection = connectionOf(call);
  const name = (connection && named.get(connection)) ?? nameOf(call);
  if (connection !== undefined) named.set(connection, name);
  if (!name.ok) return name;
  const { parts, text } = name.value;
  return parts.kind === "node" && trustDomains.includes(parts.trustDomain)
    ? ok(parts.node)
    : err({ code: status.PERMISSION_DENIED, message: `${text} is not a node of this mesh` });
}

/** The token of "authorization: Bearer TOKEN" (RFC 6750 §2.1); undefined when there is none or more than one. */
export function bearerToken(call: AnyCall): string | undefined {
  const [only, ...more] = call.metadata.get("authorization");
  if (typeof only !== "string" || more.length > 0) return undefined;
  return /^bearer +([^ ]+)$/i.exec(only.trim())?.[1];
}
