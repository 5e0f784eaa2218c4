// Cross-origin requests: the answer to a preflight, and the fields of a real answer (Fetch standard §3.2, Gateway API HTTPCORSFilter). Pure.
import type { Cors } from "../../api/http-filters.ts";
import type { HeaderEdits, HeaderList, RequestHead } from "../../http.ts";

/** Whether `head` asks for permission rather than for the resource. */
export const isPreflight = (head: RequestHead): boolean =>
  head.method === "OPTIONS" &&
  head.header("origin") !== undefined &&
  head.header("access-control-request-method") !== undefined;

/** Whether an origin is allowed: by its very text, by "*", or by a "*" that stands for one or more labels of the host. */
export function allowsOrigin(cors: Cors, origin: string): boolean {
  return cors.allowOrigins.some((allowed) => {
    if (allowed === "*" || allowed === origin) return true;
    const star = allowed.indexOf("*");
    if (star < 0) return false;
    const [before, after] = [allowed.slice(0, star), allowed.slice(star + 1)];
    if (origin.length <= before.length + after.length || !origin.startsWith(before) || !origin.endsWith(after))
      return false;
    return /^[A-Za-z0-9.-]+$/.test(origin.slice(before.length, origin.length - after.length));
  });
}

/** What a preflight is answered with (status 204); without any permission where the origin is not allowed. */
export function preflightHeaders(cors: Cors, head: RequestHead): HeaderList {
  const origin = head.header("origin") ?? "";
  if (!allowsOrigin(cors, origin)) return ["vary", "origin"];
  const out = originFields(cors, origin);
  // With credentials "*" means the literal name, so what was asked for is said back.
  const asked = (list: readonly string[], name: string): string =>
    list.includes("*") && cors.allowCredentials
      ? (head.header(name) ?? "")
      : list.includes("*")
        ? "*"
        : list.join(", ");
  const methods = asked(cors.allowMethods, "access-control-request-method");
  if (methods !== "") out.push("access-control-allow-methods", methods);
  const headers = asked(cors.allowHeaders, "access-control-request-headers");
  if (headers !== "") out.push("access-control-allow-headers", headers);
  out.push("access-control-max-age", String(cors.maxAgeS));
  return out;
}

/** Changes of the answer to a request from `origin`; what the application said itself about origins is replaced. */
export function corsEdits(cors: Cors, origin: string | undefined): HeaderEdits | undefined {
  if (origin === undefined) return undefined;
  const remove = ["access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"];
  if (!allowsOrigin(cors, origin)) return { remove, set: [], add: [] };
  const fields = originFields(cors, origin).filter((_, i, all) => all[i - (i % 2)] !== "vary");
  const exposed = cors.exposeHeaders.includes("*") && !cors.allowCredentials ? "*" : cors.exposeHeaders.join(", ");
  if (exposed !== "") fields.push("access-control-expose-headers", exposed);
  return { remove, set: fields, add: fields[1] === "*" ? [] : ["vary", "origin"] };
}

function originFields(cors: Cors, origin: string): string[] {
  if (cors.allowOrigins.includes("*") && !cors.allowCredentials) return ["access-control-allow-origin", "*"];
  const out = ["access-control-allow-origin", origin, "vary", "origin"];
  if (cors.allowCredentials) out.push("access-control-allow-credentials", "true");
  return out;
}
