// Checks a JWT-SVID against the key sets that are trusted (SPIFFE JWT-SVID §5): signature, times, audience, and whose it is.
import { createPublicKey, verify, type webcrypto } from "node:crypto";
import { parseTrustDomain, type TrustDomain } from "../api/names.ts";
import type { Struct, Value } from "../api/spiffe.gen.ts";
import { err, ok, type Result } from "../base/result.ts";

export interface ValidJwt {
  readonly spiffeId: string;
  readonly claims: Readonly<Record<string, unknown>>;
}
const maxTokenLength = 16_384;
/** How far another machine's clock may be ahead. */
const skewMs = 30_000;

/** `jwksOf` gives the key set of a trust domain as JSON; "" or undefined for one that is not trusted. Never throws, whatever the token. */
export function validateJwtSvid(
  token: string,
  audience: string,
  jwksOf: (trustDomain: TrustDomain) => string | undefined,
  nowMs: number,
): Result<ValidJwt, string> {
  if (token.length > maxTokenLength) return err(`the token is longer than ${maxTokenLength} characters`);
  const parts = token.split(".");
  const [head = "", body = "", signature = ""] = parts;
  const header = readPart(head);
  const claims = readPart(body);
  if (parts.length !== 3 || header === undefined || claims === undefined || !/^[A-Za-z0-9_-]{86}$/.test(signature))
    return err("the token is no JWT that is signed with ES256");
  if (header.alg !== "ES256") return err("the token is not signed with ES256");
  if (header.typ !== undefined && header.typ !== "JWT" && header.typ !== "JOSE") return err("the token is no JWT");
  const { sub, aud, exp, nbf } = claims;
  const domain = typeof sub === "string" ? trustDomainOf(sub) : undefined;
  if (typeof sub !== "string" || domain === undefined) return err("sub is no SPIFFE id");
  const key = keyOf(jwksOf(domain), header.kid);
  if (key === undefined) return err(`no key of ${domain} is known by the token's kid`);
  const isSigned = verify(
    "sha256",
    Buffer.from(`${head}.${body}`),
    { key, dsaEncoding: "ieee-p1363" },
    Buffer.from(signature, "base64url"),
  );
  if (!isSigned) return err("the signature is wrong");
  if (typeof exp !== "number" || exp * 1000 <= nowMs) return err("the token has expired");
  if (typeof nbf === "number" && nbf * 1000 > nowMs + skewMs) return err("the token does not hold yet");
  const audiences = Array.isArray(aud) ? aud : [aud];
  if (!audiences.includes(audience)) return err(`the token is not for ${audience}`);
  return ok({ spiffeId: sub, claims });
}

function readPart(text: string): Readonly<Record<string, unknown>> | undefined {
  if (!/^[A-Za-z0-9_-]+$/.test(text)) return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Readonly<Record<string, unknown>>)
      : undefined;
  } catch {
    return undefined;
  }
}

function trustDomainOf(id: string): TrustDomain | undefined {
  const domain = parseTrustDomain(/^spiffe:\/\/([^/]+)\/./.exec(id)?.[1] ?? "");
  return domain.ok ? domain.value : undefined;
}

function keyOf(jwks: string | undefined, kid: unknown): ReturnType<typeof createPublicKey> | undefined {
  if (jwks === undefined || jwks === "" || typeof kid !== "string") return undefined;
  try {
    const { keys } = JSON.parse(jwks) as {
      readonly keys: readonly (webcrypto.JsonWebKey & { readonly kid?: string })[];
    };
    const found = keys.find((key) => key.kid === kid && key.kty === "EC" && key.crv === "P-256");
    return found && createPublicKey({ key: found, format: "jwk" });
  } catch {
    return undefined;
  }
}

/** Claims as a google.protobuf.Struct. */
export const structOf = (fields: Readonly<Record<string, unknown>>): Struct => ({
  fields: Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, claimValue(value)])),
});
function claimValue(value: unknown): Value {
  switch (typeof value) {
    case "string":
      return { kind: { $case: "stringValue", value } };
    case "number":
      return { kind: { $case: "numberValue", value } };
    case "boolean":
      return { kind: { $case: "boolValue", value } };
    default:
      if (value === null || value === undefined) return { kind: { $case: "nullValue", value: 0 } };
      if (Array.isArray(value)) return { kind: { $case: "listValue", value: { values: value.map(claimValue) } } };
      return { kind: { $case: "structValue", value: structOf(value as Readonly<Record<string, unknown>>) } };
  }
}
