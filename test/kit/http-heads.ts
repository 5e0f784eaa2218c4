// Heads of requests for tests of decisions.
import type { RequestHead } from "../../agent/http.ts";

export interface HeadParts {
  readonly method?: string;
  readonly scheme?: "http" | "https";
  readonly authority?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export function requestHead(parts: HeadParts): RequestHead {
  const fields = new Map(Object.entries(parts.headers ?? {}));
  return {
    method: parts.method ?? "GET",
    scheme: parts.scheme ?? "http",
    authority: parts.authority ?? "web.shop.svc.cluster.local",
    path: parts.path ?? "/",
    header: (name) => fields.get(name),
    headers: () => [...fields].flat(),
  };
}
