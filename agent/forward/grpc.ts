// What a proxy has to know of gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): how a call is recognized, and how an answer of our own looks,
// which is a status in fields and never one of HTTP. Pure.
import type { HeaderList } from "../http.ts";

/** Codes that a proxy gives (grpc/doc/statuscodes.md). */
export const grpcCode = {
  unknown: 2,
  deadlineExceeded: 4,
  permissionDenied: 7,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** `application/grpc`, alone or with a codec or parameters behind it; grpc-web is ordinary HTTP. */
export function isGrpcType(contentType: string | undefined): boolean {
  if (contentType === undefined || !contentType.startsWith("application/grpc")) return false;
  const next = contentType[16];
  return next === undefined || next === "+" || next === ";" || next === " ";
}

/** The code for an answer of ours that would have been `status` (grpc/doc/http-grpc-status-mapping.md), or for why there is none. */
export function grpcCodeOf(status: number, why: string): number {
  if (/^(?:request|try|response)_timeout$/.test(why)) return grpcCode.deadlineExceeded;
  if (why === "grpc_over_http1") return grpcCode.unimplemented;
  switch (status) {
    case 200:
      return 0;
    case 400:
    case 431:
      return grpcCode.internal;
    case 401:
      return grpcCode.unauthenticated;
    case 403:
      return grpcCode.permissionDenied;
    case 404:
      return grpcCode.unimplemented;
    case 429:
    case 502:
    case 503:
    case 504:
      return grpcCode.unavailable;
    default:
      return grpcCode.unknown;
  }
}

/** A status as records carry it: one of the 17 codes; whatever else a server says means UNKNOWN. */
export const knownStatus = (text: string): string => (/^(?:[0-9]|1[0-6])$/.test(text) ? text : "2");

/** Percent-encoding of `grpc-message`: all but printable ASCII without "%". */
export function grpcMessage(text: string): string {
  let out = "";
  for (const byte of Buffer.from(text, "utf8"))
    out +=
      byte < 32 || byte > 126 || byte === 37
        ? `%${byte.toString(16).toUpperCase().padStart(2, "0")}`
        : String.fromCharCode(byte);
  return out;
}

/** Fields of an answer that is all trailers (its status is 200): those that a decision asked for, then gRPC's. */
export function grpcAnswer(code: number, message: string, headers: HeaderList): HeaderList {
  const fields = ["content-type", "application/grpc", "grpc-status", String(code)];
  const text = message.trim();
  if (text !== "") fields.push("grpc-message", grpcMessage(text));
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] as string;
    if (name === "content-type" || name === "content-length" || name.startsWith("grpc-")) continue;
    fields.push(name, headers[i + 1] as string);
  }
  return fields;
}
