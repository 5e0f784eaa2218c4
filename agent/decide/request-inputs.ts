// Which facts of a connection and request decided, as text for the log line, `explain` and a response header. Only on refusals. Pure.
import { isL7Condition, isTokenCondition, isTokenSource, type Rule } from "../api/policy.ts";
import { formatIp } from "../base/ip.ts";
import { featureOf, featureText } from "./feature-condition.ts";
import type { RequestView } from "./request-view.ts";
import type { Known } from "./rules.ts";

const maxValue = 120;
const maxInputs = 8;

/** Names of the inputs that a rule asks about, in the order source, operation, conditions. */
export function inputNames(rules: readonly Rule[]): readonly string[] {
  const names = new Set<string>();
  for (const rule of rules) {
    for (const s of rule.from) {
      if (s.principals.length + s.notPrincipals.length > 0) names.add("source.principal");
      if (s.namespaces.length + s.notNamespaces.length > 0) names.add("source.namespace");
      if (s.serviceAccounts.length + s.notServiceAccounts.length > 0) names.add("source.serviceAccount");
      if (s.ipBlocks.length + s.notIpBlocks.length > 0) names.add("source.ip");
      if (s.remoteIpBlocks.length + s.notRemoteIpBlocks.length > 0) names.add("remote.ip");
      if (isTokenSource(s)) names.add("request.auth.principal");
    }
    for (const o of rule.to) {
      if (o.ports.length + o.notPorts.length > 0) names.add("destination.port");
      if (o.hosts.length + o.notHosts.length > 0) names.add("host");
      if (o.methods.length + o.notMethods.length > 0) names.add("method");
      if (o.paths.length + o.notPaths.length > 0) names.add("path");
    }
    for (const c of rule.when) names.add(c.key);
  }
  return [...names];
}

/** `method="POST" path="/admin" (also "/admin/x")`; values bounded and quoted, what is not known said so. */
export function showInputs(names: readonly string[], known: Known, view: RequestView): string {
  if (names.length === 0) return "every request";
  const shown = names.slice(0, maxInputs).map((name) => `${name}${shownValue(name, known, view)}`);
  if (names.length > maxInputs) shown.push(`and ${names.length - maxInputs} more`);
  return shown.join(" ");
}

function shownValue(name: string, known: Known, view: RequestView): string {
  switch (name) {
    case "source.principal":
      return quoted(known.principals[0]);
    case "source.namespace":
      return quoted(known.namespace);
    case "source.serviceAccount":
      return quoted(known.serviceAccounts[0]);
    case "source.ip":
      return quoted(known.sourceIp);
    case "destination.ip":
      return quoted(known.destinationIp);
    case "destination.port":
      return quoted(known.port);
    case "remote.ip":
      return view.remoteIp === undefined ? " is no address" : quoted(formatIp(view.remoteIp));
    case "host":
      return quoted(view.hosts[0]);
    case "method":
      return quoted(view.method);
    case "path":
      return view.deep === view.path
        ? quoted(view.path)
        : `${quoted(view.path)} (may be read as ${quoted(view.deep).slice(1)})`;
    case "connection.sni":
      return view.sni === undefined ? " is not known" : quoted(view.sni);
    default:
      return otherValue(name, view);
  }
}

function otherValue(name: string, view: RequestView): string {
  const feature = featureOf(name);
  if (feature !== undefined) return quoted(featureText(feature, view.features));
  const condition = { key: name, values: [], notValues: [] };
  if (!isL7Condition(condition)) return "";
  const header = /^request\.headers\[([^\]]+)\]$/.exec(name)?.[1];
  if (header === undefined || isTokenCondition(condition)) return " is not read: tokens are not supported";
  return quoted(view.header(header.toLowerCase()));
}

const quoted = (value: string | undefined): string =>
  value === undefined
    ? " is absent"
    : `=${JSON.stringify(value.length > maxValue ? `${value.slice(0, maxValue)}...` : value).replace(/[^\x20-\x7e]/g, "?")}`;
