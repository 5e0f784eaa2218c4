// The agent's own service account token (projected by the kubelet, which replaces the file as it rotates): read anew for each call.
import { readFile } from "node:fs/promises";
import { messageOf } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";

/** Real ones have about 1,200 characters. */
const maxLength = 16_384;

/** The token as it is in the file now. The error says what is wrong with the file, never what is in it. */
export async function readToken(path: string): Promise<Result<string, string>> {
  try {
    const token = (await readFile(path, "utf8")).trim();
    if (token === "") return err(`${path} is empty`);
    // It becomes a header of every call.
    return token.length <= maxLength && /^[A-Za-z0-9._~+/=-]+$/.test(token) ? ok(token) : err(`${path} holds no token`);
  } catch (error) {
    return err(`token: ${messageOf(error)}`);
  }
}

/** When the token ends by its own word, Unix ms; 0 if it does not say. For metrics only: the API server decides. */
export function tokenExpiry(token: string): number {
  try {
    const claims: unknown = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8"));
    const exp = (claims as { readonly exp?: unknown } | null)?.exp;
    return typeof exp === "number" && Number.isFinite(exp) && exp > 0 ? exp * 1000 : 0;
  } catch {
    return 0;
  }
}
