// The meaning of Istio's AuthorizationPolicy for one request, written out plainly from its reference ("Authorization Policy",
// "Conditions", "Normalization") and from docs/authorization.md where that goes further. Slow on purpose; shares no code with the agent.
import type { Authorization, Condition, Operation, Rule, Source } from "../../agent/api/policy.ts";

export interface ReferenceRequest {
  /** [trust domain, namespace, service account], or null without mTLS. */
  readonly identity: readonly [string, string, string] | null;
  readonly sourceIp: string;
  readonly destinationIp: string;
  readonly port: number;
  readonly sni: string | undefined;
  readonly method: string;
  readonly authority: string;
  readonly target: string;
  readonly fields: readonly (readonly [string, string])[];
}
export interface ReferenceSettings {
  readonly pathNormalization: "none" | "base" | "merge_slashes" | "decode_and_merge_slashes";
  readonly trustedProxies: number;
}
/** What an attribute is: texts of which any may be meant, none if absent, or not known at all. */
type Attribute =
  | { readonly known: true; readonly any: readonly string[]; readonly all: readonly string[] }
  | { readonly known: false };

/** "CUSTOM, then DENY, then ALLOW": returns whether the request is let through. Dry-run and AUDIT policies decide nothing. */
export function reference(
  policies: readonly Authorization[],
  request: ReferenceRequest,
  settings: ReferenceSettings,
): boolean {
  const live = policies.filter((p) => !p.dryRun);
  const hit = (p: Authorization): boolean => p.rules.some((r) => ruleHolds(r, p, request, settings));
  if (live.some((p) => p.action === "custom" && hit(p))) return false;
  if (live.some((p) => p.action === "deny" && hit(p))) return false;
  if (!live.some((p) => p.action === "allow")) return true;
  return live.some((p) => p.action === "allow" && hit(p));
}

function ruleHolds(rule: Rule, policy: Authorization, request: ReferenceRequest, settings: ReferenceSettings): boolean {
  const closed = policy.action === "deny" || policy.action === "custom";
  const attributeTest = (key: string, yes: readonly string[], no: readonly string[]): boolean =>
    attributeHolds(key, yes, no, policy.namespace, request, settings, closed);
  const test = (key: string, yes: readonly string[], no: readonly string[]): boolean =>
    (yes.length === 0 && no.length === 0) || attributeTest(key, yes, no);
  const source = (s: Source): boolean =>
    test("source.principal", s.principals, s.notPrincipals) &&
    test("source.namespace", s.namespaces, s.notNamespaces) &&
    test("source.serviceAccount", s.serviceAccounts, s.notServiceAccounts) &&
    test("source.ip", s.ipBlocks, s.notIpBlocks) &&
    test("remote.ip", s.remoteIpBlocks, s.notRemoteIpBlocks) &&
    test("request.auth.principal", s.requestPrincipals, s.notRequestPrincipals);
  const operation = (o: Operation): boolean =>
    test("destination.port", o.ports, o.notPorts) &&
    test("host", o.hosts, o.notHosts) &&
    test("method", o.methods, o.notMethods) &&
    test("path", o.paths, o.notPaths);
  const condition = (c: Condition): boolean => attributeTest(c.key, c.values, c.notValues);
  return (
    (rule.from.length === 0 || rule.from.some(source)) &&
    (rule.to.length === 0 || rule.to.some(operation)) &&
    rule.when.every(condition)
  );
}

function attributeHolds(
  key: string,
  yes: readonly string[],
  no: readonly string[],
  namespace: string,
  request: ReferenceRequest,
  settings: ReferenceSettings,
  closed: boolean,
): boolean {
  const found = attribute(key, namespace, request, settings);
  if (!found.known) return closed;
  const one = (patterns: readonly string[], text: string): boolean => patterns.some((p) => matches(key, p, text));
  // A refusing policy names what any reading could be; a permitting one only what every reading is.
  const widely = (patterns: readonly string[]): boolean => found.any.some((text) => one(patterns, text));
  const narrowly = (patterns: readonly string[]): boolean =>
    found.all.length > 0 && one(patterns, found.any[0] ?? "") && found.all.every((text) => one(patterns, text));
  const [positive, negative] = closed ? [widely, narrowly] : [narrowly, widely];
  return (yes.length === 0 || positive(yes)) && (no.length === 0 || !negative(no));
}

const texts = (any: readonly string[], all: readonly string[] = any.slice(0, 1)): Attribute => ({
  known: true,
  any,
  all,
});

function attribute(key: string, namespace: string, r: ReferenceRequest, settings: ReferenceSettings): Attribute {
  switch (key) {
    case "source.principal":
      return texts(r.identity === null ? [] : [`${r.identity[0]}/ns/${r.identity[1]}/sa/${r.identity[2]}`]);
    case "source.namespace":
      return texts(r.identity === null ? [] : [r.identity[1]]);
    case "source.serviceAccount": {
      if (r.identity === null) return texts([]);
      const full = `${r.identity[1]}/${r.identity[2]}`;
      return r.identity[1] === namespace ? eitherOf([full, r.identity[2]]) : texts([full]);
    }
    case "source.ip":
      return texts([r.sourceIp]);
    case "destination.ip":
      return texts([r.destinationIp]);
    case "destination.port":
      return texts([String(r.port)]);
    case "connection.sni":
      return r.sni === undefined ? { known: false } : texts([r.sni]);
    case "remote.ip": {
      const entries = r.fields
        .filter(([n]) => n === "x-forwarded-for")
        .flatMap(([, v]) => v.split(",").map((e) => e.trim()));
      if (settings.trustedProxies === 0 || entries.length < settings.trustedProxies) return texts([r.sourceIp]);
      const at = entries[entries.length - settings.trustedProxies] ?? "";
      return /^[0-9.]+$|:/.test(at) ? texts([at]) : { known: false };
    }
    case "host": {
      const lower = r.authority.toLowerCase();
      const port = /:[0-9]*$/.exec(lower)?.[0] ?? "";
      const host = lower.slice(0, lower.length - port.length);
      const bare = host.length > 1 ? host.replace(/[.]$/, "") : host;
      return eitherOf([host + port, host, bare + port, bare]);
    }
    case "method":
      return texts([r.method, r.method.toUpperCase()]);
    case "path": {
      const raw = r.target.split(/[?#]/)[0] ?? "";
      const read = normalized(raw, settings.pathNormalization);
      const plainest = plain(raw);
      const segments = read.split("/").map(decoded);
      const others = plainest.split("/");
      const isSame =
        segments.length === others.length && segments.every((s, i) => s === others[i]) && !read.includes("%00");
      if (plainest === read) return texts([read]);
      return texts([read, plainMark + plainest], isSame ? [read] : [read, plainMark + plainest]);
    }
    default: {
      const header = /^request\.headers\[([^\]]+)\]$/.exec(key)?.[1]?.toLowerCase();
      if (header === undefined) return { known: false };
      const values = r.fields.filter(([n]) => n === header).map(([, v]) => v);
      return values.length === 0 ? texts([]) : texts([values.join(", "), ...values]);
    }
  }
}
/** Spellings of one thing: a pattern that means any of them means it. */
const eitherOf = (spellings: readonly string[]): Attribute => ({
  known: true,
  any: [spellings.join("\n")],
  all: [spellings.join("\n")],
});

/** Before a path: this is its plainest reading, to be compared with the plainest reading of a pattern too. */
const plainMark = "\u0001";

/** "Exact, prefix, suffix and presence match"; blocks for addresses, templates for paths, no case for hosts. */
function matches(key: string, pattern: string, text: string): boolean {
  if (key.endsWith(".ip")) return inBlock(pattern, text);
  if (key === "host") return text.split("\n").some((t) => glob(pattern.toLowerCase(), t));
  if (key === "source.serviceAccount") return text.split("\n").some((t) => glob(pattern, t));
  if (key === "path") {
    const bare = text.startsWith(plainMark) ? text.slice(1) : text;
    if (pattern.includes("{*}") || pattern.includes("{**}")) return template(pattern, bare);
    return glob(pattern, bare) || (text.startsWith(plainMark) && glob(plainPattern(pattern), bare));
  }
  if (key.startsWith("request.headers") && pattern === "*") return true;
  return glob(pattern, text);
}
const plainPattern = (pattern: string): string =>
  pattern === "*" || (pattern.startsWith("*") && !pattern.endsWith("*"))
    ? pattern
    : pattern.endsWith("*")
      ? `${plain(pattern.slice(0, -1))}*`
      : plain(pattern);
function glob(pattern: string, text: string): boolean {
  if (pattern === "*") return text.length > 0;
  if (pattern.endsWith("*")) return text.slice(0, pattern.length - 1) === pattern.slice(0, -1);
  if (pattern.startsWith("*"))
    return text.length >= pattern.length - 1 && text.slice(text.length - pattern.length + 1) === pattern.slice(1);
  return pattern === text;
}

/** "{*} matches a single segment, {**} zero or more": by trying every split. */
function template(pattern: string, text: string): boolean {
  const walk = (p: readonly string[], t: readonly string[]): boolean => {
    const [head, ...rest] = p;
    if (head === undefined) return t.length === 0;
    if (head === "{**}") {
      for (let take = 1; take <= t.length; take++) if (walk(rest, t.slice(take))) return true;
      return false;
    }
    const [first, ...others] = t;
    if (first === undefined) return false;
    return (head === "{*}" ? first !== "" : head === first) && walk(rest, others);
  };
  return walk(pattern.split("/"), text.split("/"));
}

function inBlock(block: string, ip: string): boolean {
  const bits = (text: string): string | undefined =>
    text.includes(":")
      ? undefined
      : text
          .split(".")
          .map((part) => Number(part).toString(2).padStart(8, "0"))
          .join("");
  const [address = "", length = "32"] = block.split("/");
  const [a, b] = [bits(address), bits(ip)];
  return a !== undefined && b !== undefined && a.slice(0, Number(length)) === b.slice(0, Number(length));
}

const unreserved = /[A-Za-z0-9._~-]/;
/** The table of "Normalization" row by row. */
export function normalized(path: string, mode: ReferenceSettings["pathNormalization"]): string {
  if (mode === "none") return path;
  let out = "";
  for (let i = 0; i < path.length; i++) {
    const hex = /^%([0-9a-fA-F]{2})/.exec(path.slice(i))?.[1];
    const char = hex === undefined ? (path[i] as string) : String.fromCharCode(Number.parseInt(hex, 16));
    const isDecoded =
      hex !== undefined && (unreserved.test(char) || (mode === "decode_and_merge_slashes" && /[/\\]/.test(char)));
    if (hex !== undefined && !isDecoded) out += path.slice(i, i + 3);
    else out += char === "\\" ? "/" : char;
    if (hex !== undefined) i += 2;
  }
  out = resolved(out);
  if (mode !== "base") while (out.includes("//")) out = out.replace("//", "/");
  return out;
}
function resolved(path: string): string {
  const kept: string[] = [];
  const parts = path.split("/");
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] as string;
    if (i === 0 || (part !== "." && part !== "..")) kept.push(part);
    if (i > 0 && part === ".." && kept.length > 1) kept.pop();
    if (i > 0 && i === parts.length - 1 && (part === "." || part === "..")) kept.push("");
  }
  return kept.join("/");
}
function decoded(text: string): string {
  let out = text;
  for (let round = 0; round < 3; round++)
    out = out.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return out;
}
/** docs/authorization.md, "Paths that can be read in two ways". */
export function plain(path: string): string {
  const out = decoded(path)
    .replaceAll("\\", "/")
    .split("/")
    .map((segment) => segment.split(";")[0] ?? "")
    .join("/");
  const merge = (text: string): string => {
    let merged = text;
    while (merged.includes("//")) merged = merged.replace("//", "/");
    return merged;
  };
  return merge(resolved(merge(out)));
}
