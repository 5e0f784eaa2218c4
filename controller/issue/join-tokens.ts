// Join tokens: bound to a node, single use, expiring, stored as hashes. A token that was used answers again only to the same key.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { StateFiles } from "./state-files.ts";

interface StoredToken {
  /** SHA-256 of the token, hex. The token has 256 random bits, so a plain hash is enough. */
  readonly hash: string;
  readonly node: string;
  readonly expiresMs: number;
  /** SHA-256 of the public key that it was exchanged for; "" while unused. */
  readonly usedBy: string;
}
export type TokenRefusal = "unknown" | "expired" | "used" | "other_node";

const fileName = "join-tokens.json";
const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");
const maxTokens = 10_000;

export class JoinTokens {
  readonly #files: StateFiles;
  readonly #now: () => number;
  #tokens: readonly StoredToken[];

  constructor(files: StateFiles, now: () => number) {
    this.#files = files;
    this.#now = now;
    this.#tokens = parse(files.read(fileName));
  }

  /** A new token; it is shown once and kept nowhere. */
  create(node: string, lifeMs: number): { readonly token: string; readonly expiresMs: number } {
    const token = `fl1.${randomBytes(32).toString("base64url")}`;
    const expiresMs = this.#now() + lifeMs;
    const living = this.#tokens.filter((t) => t.expiresMs > this.#now()).slice(1 - maxTokens);
    this.#store([...living, { hash: sha256(token), node, expiresMs, usedBy: "" }]);
    return { token, expiresMs };
  }

  /**
   * Uses the token up for `publicKey` (DER). The same key may come again until the token expires, so that a lost answer costs no token.
   * The use is on disk before this returns; throws StateError when it cannot be.
   */
  redeem(token: string, node: string, publicKey: Uint8Array): Result<void, TokenRefusal> {
    const hash = Buffer.from(sha256(token), "hex");
    const found = this.#tokens.find((t) => timingSafeEqual(Buffer.from(t.hash, "hex"), hash));
    if (found === undefined) return err("unknown");
    if (found.expiresMs <= this.#now()) return err("expired");
    if (found.node !== node) return err("other_node");
    const key = sha256(publicKey);
    if (found.usedBy === key) return ok(undefined);
    if (found.usedBy !== "") return err("used");
    this.#store(this.#tokens.map((t) => (t === found ? { ...t, usedBy: key } : t)));
    return ok(undefined);
  }

  #store(tokens: readonly StoredToken[]): void {
    this.#files.write(fileName, JSON.stringify(tokens));
    this.#tokens = tokens;
  }
}

function parse(text: string | undefined): readonly StoredToken[] {
  if (text === undefined) return [];
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(value)) return value.filter(isStored);
  } catch {
    // A damaged list costs its tokens, nothing else: new ones can be made.
  }
  return [];
}

function isStored(value: unknown): value is StoredToken {
  const token = value as StoredToken | null;
  return (
    typeof token === "object" &&
    token !== null &&
    /^[0-9a-f]{64}$/.test(token.hash) &&
    typeof token.node === "string" &&
    Number.isFinite(token.expiresMs) &&
    typeof token.usedBy === "string"
  );
}
