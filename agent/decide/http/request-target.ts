// Parts of a request that rules look at: host, path, query, cookies. No allocation beyond the slices asked for. Pure.

/** Host of an authority in lower case, without port and brackets, without a trailing dot. */
export function hostOf(authority: string): string {
  let host = authority;
  if (host.charCodeAt(0) === 91) {
    const end = host.indexOf("]");
    host = end < 0 ? host : host.slice(1, end);
  } else {
    const colon = host.indexOf(":");
    if (colon >= 0) host = host.slice(0, colon);
  }
  if (host.endsWith(".")) host = host.slice(0, -1);
  return hasUpper(host) ? host.toLowerCase() : host;
}
function hasUpper(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c >= 65 && c <= 90) return true;
  }
  return false;
}

/** The port named in an authority, "" if none. */
export function portOf(authority: string): string {
  const colon = authority.lastIndexOf(":");
  return colon < 0 || authority.endsWith("]") || authority.indexOf("]") > colon ? "" : authority.slice(colon + 1);
}

/** Length of the path before its query. */
export function pathLength(target: string): number {
  const query = target.indexOf("?");
  return query < 0 ? target.length : query;
}

/**
 * The first value of a query parameter, undefined if it is missing. Names and values are compared after %XX and "+" are undone, as
 * bytes. Gateway API leaves repeated parameters open and recommends the first.
 */
export function queryValue(target: string, name: string): string | undefined {
  let at = target.indexOf("?") + 1;
  if (at === 0) return undefined;
  while (at <= target.length) {
    let end = target.indexOf("&", at);
    if (end < 0) end = target.length;
    let equals = target.indexOf("=", at);
    if (equals < 0 || equals > end) equals = end;
    if (end > at && unescaped(target.slice(at, equals)) === name) {
      return equals === end ? "" : unescaped(target.slice(equals + 1, end));
    }
    at = end + 1;
  }
  return undefined;
}

function unescaped(text: string): string {
  if (!text.includes("%") && !text.includes("+")) return text;
  return text
    .replaceAll("+", " ")
    .replace(/%[0-9A-Fa-f]{2}/g, (coded) => String.fromCharCode(Number.parseInt(coded.slice(1), 16)));
}

/** The first cookie of a name in a Cookie field (RFC 6265 §5.4), without quotes. */
export function cookieValue(field: string | undefined, name: string): string | undefined {
  if (field === undefined) return undefined;
  let at = 0;
  while (at < field.length) {
    while (field.charCodeAt(at) === 32) at++;
    let end = field.indexOf(";", at);
    if (end < 0) end = field.length;
    if (field.startsWith(name, at) && field.charCodeAt(at + name.length) === 61 && at + name.length < end) {
      const value = field.slice(at + name.length + 1, end).trim();
      return value.length >= 2 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value;
    }
    at = end + 1;
  }
  return undefined;
}
