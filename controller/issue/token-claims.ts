// What a service account token says about itself. Nothing here is verified: it may only be a reason to refuse, and when to forget.
import { err, ok, type Result } from "../../agent/base/result.ts";

export interface TokenClaims {
  readonly audiences: readonly string[];
  /** Unix ms; 0 for none. */
  readonly expiresMs: number;
  readonly notBeforeMs: number;
}
/** Real ones have about 1,200 characters. */
const maxTokenLength = 16_384;

/** Reads the payload of a JWS in compact form (RFC 7519 §3, RFC 7515 §7.1). Never throws, whatever the text. */
export function readClaims(token: string): Result<TokenClaims, string> {
  if (token.length > maxTokenLength) return err(`is longer than ${maxTokenLength} characters`);
  const parts = token.split(".");
  const [, payload = ""] = parts;
  if (parts.length !== 3 || !parts.every((part) => /^[A-Za-z0-9_-]+$/.test(part))) return err("is no JWT");
  let claims: unknown;
  try {
    claims = JSON.parse(Buffer.from(payload, "base64url").toString("utf8"));
  } catch {
    return err("holds no JSON");
  }
  if (typeof claims !== "object" || claims === null) return err("holds no claims");
  const { aud, exp, nbf } = claims as Readonly<Record<string, unknown>>;
  const audiences = (Array.isArray(aud) ? aud : [aud]).filter((one): one is string => typeof one === "string");
  return ok({ audiences, expiresMs: seconds(exp), notBeforeMs: seconds(nbf) });
}

const seconds = (value: unknown): number =>
  typeof value === "number" && Number.isFinite(value) && value > 0 ? Math.floor(value * 1000) : 0;
