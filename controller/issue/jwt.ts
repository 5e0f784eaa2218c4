// JWT-SVIDs (SPIFFE JWT-SVID §3): keys, the key set that verifies them, signing. Keys are P-256; a new one is known to all before it signs.
import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { makeKey } from "./pki.ts";
import { StateError } from "./state-files.ts";
import { readClaims } from "./token-claims.ts";

export interface JwtKey {
  /** Its RFC 7638 thumbprint: the same key always has the same name. */
  readonly id: string;
  readonly keyPem: string;
  /** It signs from then on, Unix ms. */
  readonly fromMs: number;
}
export const jwtKeysName = "jwt.json";
const dayMs = 86_400_000;
/** After so long a key is followed by the next. */
const keyLifeMs = 30 * dayMs;
/** Agents know a key this long before it signs. */
const leadMs = 3_600_000;
/** A key that does not sign any more verifies for so long; tokens live far shorter. */
const afterlifeMs = dayMs;

/** A key that signs at once: the first. */
export const firstJwtKeys = async (nowMs: number): Promise<readonly JwtKey[]> => [await makeJwtKey(nowMs)];

/** Adds the next key when it is time and drops what verifies nothing any more; undefined when nothing is to be done. */
export async function rotatedJwtKeys(keys: readonly JwtKey[], nowMs: number): Promise<readonly JwtKey[] | undefined> {
  const newest = keys.at(-1);
  const isDue = newest === undefined || nowMs >= newest.fromMs + keyLifeMs;
  // A key is over when the one after it has signed for a day.
  const living = keys.filter((_, i) => {
    const next = keys[i + 1];
    return next === undefined || nowMs < next.fromMs + afterlifeMs;
  });
  if (!isDue && living.length === keys.length) return undefined;
  return isDue ? [...living, await makeJwtKey(newest === undefined ? nowMs : nowMs + leadMs)] : living;
}

async function makeJwtKey(fromMs: number): Promise<JwtKey> {
  const keyPem = await makeKey("p-256");
  const { crv, kty, x, y } = createPublicKey(createPrivateKey(keyPem)).export({ format: "jwk" });
  const id = createHash("sha256").update(JSON.stringify({ crv, kty, x, y })).digest("base64url");
  return { id, keyPem, fromMs };
}

export const jwtKeysText = (keys: readonly JwtKey[]): string => JSON.stringify({ version: 1, keys });

/** Throws StateError when it is not what jwtKeysText wrote. */
export function parseJwtKeys(text: string, where: string): readonly JwtKey[] {
  try {
    const { keys } = JSON.parse(text) as { readonly keys: readonly JwtKey[] };
    const isFine =
      Array.isArray(keys) &&
      keys.length > 0 &&
      keys.every((key) => typeof key.id === "string" && Number.isFinite(key.fromMs) && createPrivateKey(key.keyPem));
    if (isFine) return keys;
  } catch {
    // Told below.
  }
  throw new StateError(`${where}: ${jwtKeysName} is damaged: remove it, and new keys are made`);
}

/** JSON Web Key Set (RFC 7517) as SPIFFE has it: use "jwt-svid". */
export function jwksOf(keys: readonly JwtKey[]): string {
  return JSON.stringify({
    keys: keys.map(({ id, keyPem }) => {
      const { crv, kty, x, y } = createPublicKey(createPrivateKey(keyPem)).export({ format: "jwk" });
      return { kty, crv, x, y, kid: id, use: "jwt-svid" };
    }),
  });
}

export interface JwtPlan {
  readonly subject: string;
  readonly audience: readonly string[];
  readonly issuedMs: number;
  readonly lifeMs: number;
}
/** A signer of one moment's key. */
export class JwtSigner {
  readonly #keys: readonly { readonly id: string; readonly fromMs: number; readonly key: KeyObject }[];

  constructor(keys: readonly JwtKey[]) {
    this.#keys = keys.map(({ id, fromMs, keyPem }) => ({ id, fromMs, key: createPrivateKey(keyPem) }));
  }

  /** The subject of a token of ours for this audience. Never throws, whatever the text. */
  subjectOf(token: string, audience: string, nowMs: number): Result<string, string> {
    const claims = readClaims(token);
    if (!claims.ok) return err(`the token ${claims.error}`);
    const [head = "", body = "", signature = ""] = token.split(".");
    const text = Buffer.from(`${head}.${body}`);
    const isOurs = this.#keys.some(({ key }) =>
      verify(
        "sha256",
        text,
        { key: createPublicKey(key), dsaEncoding: "ieee-p1363" },
        Buffer.from(signature, "base64url"),
      ),
    );
    if (!isOurs) return err("the token is not one of this controller's");
    if (claims.value.expiresMs <= nowMs) return err("the token has expired");
    if (!claims.value.audiences.includes(audience)) return err(`the token is not for ${audience}`);
    const { sub } = JSON.parse(Buffer.from(body, "base64url").toString()) as { readonly sub: string };
    return ok(sub);
  }

  /** ES256 in compact form (RFC 7515); the newest key whose time has come signs. */
  sign(plan: JwtPlan): { readonly token: string; readonly notAfterMs: number } {
    const ready = this.#keys.filter((key) => key.fromMs <= plan.issuedMs).at(-1) ?? this.#keys[0];
    if (ready === undefined) throw new StateError("there is no key to sign JWTs with");
    const iat = Math.floor(plan.issuedMs / 1000);
    const exp = Math.floor((plan.issuedMs + plan.lifeMs) / 1000);
    const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${part({ alg: "ES256", kid: ready.id, typ: "JWT" })}.${part({ sub: plan.subject, aud: plan.audience, iat, exp })}`;
    const signature = sign("sha256", Buffer.from(text), { key: ready.key, dsaEncoding: "ieee-p1363" });
    return { token: `${text}.${signature.toString("base64url")}`, notAfterMs: exp * 1000 };
  }
}

/** What is wrong with the audiences that a token is wanted for; undefined for nothing. */
export function wrongAudience(audience: readonly string[]): string | undefined {
  if (audience.length === 0) return "is empty: name whom the token is for";
  if (audience.length > 32) return "has more than 32 entries";
  return audience.some((one) => one === "" || one.length > 1024) ? "has an empty or overlong entry" : undefined;
}
