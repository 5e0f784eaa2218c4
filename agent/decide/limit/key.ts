// What a limit counts a request by, as a hash for the table of buckets and as text for the log. Pure.
import type { SpiffeId } from "../../api/names.ts";
import { partsOf } from "../../api/names.ts";
import type { LimitRule } from "../../api/rate-limit.ts";
import { type IpBytes, isV4 } from "../../base/ip.ts";
import { addText, shownHash, type TextHash } from "../../base/text-hash.ts";

/** What a key may be made of. */
export interface KeyFacts {
  /** As proven; null: nothing was. */
  readonly identity: SpiffeId | null;
  /** Of the client, as the settings read X-Forwarded-For; undefined: it is no address. */
  readonly clientIp: IpBytes | undefined;
  header(name: string): string | undefined;
}

/** A header's value counts by so many characters, and by its length. */
const mostHashed = 1024;

/** Whether every request of a connection has the same key. `isProxied`: its address is read from a header. */
export function isFixedKey(rule: LimitRule, isProxied: boolean): boolean {
  const hasAddress = rule.key === "address" || rule.key === "address_tenant";
  return rule.header === "" && !(hasAddress && isProxied);
}

/** Adds the key's own part to `hash`, which already holds the limit and what it protects. */
export function addKey(hash: TextHash, rule: LimitRule, facts: KeyFacts): void {
  const { key } = rule;
  if (key === "identity") addText(hash, facts.identity ?? "");
  if (key === "header") addValue(hash, facts.header(rule.header) ?? "");
  if (key === "address" || key === "address_tenant") addText(hash, addressText(rule, facts.clientIp));
  if (key === "tenant" || key === "address_tenant") addValue(hash, tenantOf(rule, facts));
}

/** Whom a tenant is told by: the header that the rule names; else, and where it is missing, the namespace of the proven identity. */
export function tenantOf(rule: LimitRule, facts: KeyFacts): string {
  const named = rule.header === "" ? undefined : facts.header(rule.header);
  if (named !== undefined && named !== "") return named;
  const parts = facts.identity === null ? undefined : partsOf(facts.identity);
  return parts?.kind === "workload" ? parts.namespace : "";
}

function addValue(hash: TextHash, value: string): void {
  addText(hash, value.length <= mostHashed ? value : value.slice(0, mostHashed));
  if (value.length > mostHashed) addText(hash, String(value.length));
}

/** The bits of an address that count, as characters; "" for no address. */
function addressText(rule: LimitRule, ip: IpBytes | undefined): string {
  if (ip === undefined) return "";
  const bits = isV4(ip) ? 96 + rule.ipv4Prefix : rule.ipv6Prefix;
  let text = "";
  for (let i = 0; i < 16; i++) {
    const left = bits - 8 * i;
    const mask = left >= 8 ? 0xff : left <= 0 ? 0 : (0xff << (8 - left)) & 0xff;
    text += String.fromCharCode((ip[i] as number) & mask);
  }
  return text;
}

/** For the log: who it was. Values of headers may be secrets and are shown as a hash. */
export function shownKey(rule: LimitRule, facts: KeyFacts, address: string, hash: TextHash): string {
  switch (rule.key) {
    case "service":
      return "service";
    case "identity":
      return facts.identity ?? "no identity";
    case "header":
      return facts.header(rule.header) === undefined ? `no ${rule.header}` : `${rule.header} #${shownHash(hash)}`;
    case "tenant":
      return rule.header === "" ? `tenant ${tenantOf(rule, facts)}` : `tenant #${shownHash(hash)}`;
    case "address":
      return address;
    case "address_tenant":
      return rule.header === ""
        ? `${address} tenant ${tenantOf(rule, facts)}`
        : `${address} tenant #${shownHash(hash)}`;
  }
}
