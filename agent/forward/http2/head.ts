// Heads of HTTP/2 messages and their rules (RFC 9113 §8.1 to §8.3, RFC 8441 §4): the sink of the HPACK decoder that makes a head of
// fields, or says why the message is malformed. Nothing is repaired.
import type { HeaderList, RequestHead, ResponseHead } from "../../http.ts";
import { isAuthority, isPath, isToken, kind, parseLength } from "./fields.ts";
import type { FieldSink } from "./hpack-decoder.ts";

/** All values of one name as one. */
export const joined = (fields: HeaderList, name: string): string | undefined => {
  let found: string | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i] !== name) continue;
    found = found === undefined ? fields[i + 1] : `${found}${name === "cookie" ? "; " : ", "}${fields[i + 1]}`;
  }
  return found;
};

/** What a head has beyond those of agent/http.ts. It belongs to whoever gets it. */
class Fields {
  readonly fields: string[];
  /** Names whose values the sender wants in no table (RFC 7541 §7.1.3), to be told to the encoder; mostly null. */
  readonly sensitive: readonly string[] | null;
  /** By Content-Length, -1 if it has none. */
  readonly contentLength: number;

  constructor(fields: string[], sensitive: readonly string[] | null, contentLength: number) {
    this.fields = fields;
    this.sensitive = sensitive;
    this.contentLength = contentLength;
  }
  header(name: string): string | undefined {
    return joined(this.fields, name);
  }
  headers(): HeaderList {
    return this.fields;
  }
}

export type RequestParts = Pick<
  HeadBuilder,
  "fields" | "contentLength" | "method" | "scheme" | "authority" | "path" | "protocol"
> & { readonly sensitive: readonly string[] | null };
export class Http2Request extends Fields implements RequestHead {
  readonly method: string;
  readonly scheme: "http" | "https";
  readonly authority: string;
  readonly path: string;
  /** Of an extended CONNECT (RFC 8441), else "". */
  readonly protocol: string;

  constructor(b: RequestParts) {
    super(b.fields, b.sensitive, b.contentLength);
    this.method = b.method;
    this.scheme = b.scheme === "https" ? "https" : "http";
    this.authority = b.authority;
    this.path = b.path;
    this.protocol = b.protocol;
  }
}

export class Http2Response extends Fields implements ResponseHead {
  readonly status: number;

  constructor(b: HeadBuilder) {
    super(b.fields, b.sensitive, b.contentLength);
    this.status = b.status;
  }
}

export type HeadError =
  | "field_name"
  | "field_value"
  | "field_connection_specific"
  | "field_te"
  | "content_length"
  | "host"
  | "pseudo_order"
  | "pseudo_duplicate"
  | "pseudo_unexpected"
  | "pseudo_missing"
  | "method"
  | "scheme"
  | "authority"
  | "path"
  | "status"
  | "trailer_field"
  | "head_too_large";

export const section = { request: 0, response: 1, trailers: 2 } as const;

/** Reused for every field section of a connection; `begin`, then the decoder's fields, then `error` and the parts. */
export class HeadBuilder implements FieldSink {
  method = "";
  scheme = "";
  authority = "";
  path = "";
  protocol = "";
  status = 0;
  contentLength = -1;
  fields: string[] = [];
  sensitive: string[] | null = null;
  error: HeadError | null = null;
  private part: number = section.request;
  private readonly maxBytes: number;
  private bytes = 0;
  /** Bit per pseudo-header kind. */
  private pseudo = 0;
  private regular = false;
  private host = "";
  private hosts = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  begin(part: number): void {
    this.part = part;
    this.method = this.scheme = this.authority = this.path = this.protocol = this.host = "";
    this.status = 0;
    this.contentLength = -1;
    this.fields = [];
    this.sensitive = null;
    this.error = null;
    this.bytes = 0;
    this.pseudo = 0;
    this.regular = false;
    this.hosts = 0;
  }

  field(name: string, value: string, of: number, never: boolean): void {
    this.bytes += name.length + value.length + 32;
    if (this.bytes > this.maxBytes) {
      // What was gathered is let go: the rest is decoded only for the table's sake.
      if (this.error !== "head_too_large") this.fields = [];
      this.error = "head_too_large";
    }
    if (this.error !== null) return;
    if (of !== kind.regular) {
      if (of >= kind.method && of <= kind.status) {
        this.pseudoField(of, value);
        return;
      }
      this.special(of, value);
    }
    this.regular = true;
    this.fields.push(name, value);
    if (never) {
      if (this.sensitive === null) this.sensitive = [name];
      else if (!this.sensitive.includes(name)) this.sensitive.push(name);
    }
  }

  private pseudoField(of: number, value: string): void {
    const bit = 1 << of;
    if (this.regular) this.error = "pseudo_order";
    else if ((this.pseudo & bit) !== 0) this.error = "pseudo_duplicate";
    else if (this.part === section.trailers || (of === kind.status) !== (this.part === section.response)) {
      this.error = "pseudo_unexpected";
    }
    if (this.error !== null) return;
    this.pseudo |= bit;
    switch (of) {
      case kind.method:
        this.method = value;
        break;
      case kind.scheme:
        this.scheme = value;
        break;
      case kind.authority:
        this.authority = value;
        break;
      case kind.path:
        this.path = value;
        break;
      case kind.protocol:
        this.protocol = value;
        break;
      default:
        this.status = value.length === 3 ? parseLength(value) : -1;
        // 101 has no meaning in HTTP/2 (§8.6).
        if (this.status < 100 || this.status > 999 || this.status === 101) this.error = "status";
    }
  }

  private special(of: number, value: string): void {
    if (of === kind.badName) this.error = "field_name";
    else if (of === kind.badValue) this.error = "field_value";
    else if (of === kind.hop) this.error = "field_connection_specific";
    else if (this.part === section.trailers) this.error = "trailer_field";
    else if (of === kind.te) {
      if (value !== "trailers") this.error = "field_te";
    } else if (of === kind.host) {
      this.host = value;
      if (++this.hosts > 1) this.error = "host";
    } else if (of === kind.contentLength) {
      const length = parseLength(value);
      if (length < 0 || this.contentLength >= 0) this.error = "content_length";
      this.contentLength = length;
    }
  }

  /** After the last field: what the whole has to have. True if it is well-formed. */
  finish(extendedConnect: boolean): boolean {
    if (this.error === null) {
      if (this.part === section.request) this.error = this.checkRequest(extendedConnect);
      else if (this.part === section.response && this.status === 0) this.error = "pseudo_missing";
    }
    return this.error === null;
  }

  private checkRequest(extendedConnect: boolean): HeadError | null {
    const has = this.pseudo;
    const connect = this.method === "CONNECT";
    if ((has & (1 << kind.method)) === 0) return "pseudo_missing";
    if (!isToken(this.method)) return "method";
    if ((has & (1 << kind.protocol)) !== 0) {
      if (!extendedConnect || !connect || !isToken(this.protocol)) return "pseudo_unexpected";
    } else if (connect) {
      // §8.5: the two are omitted, and the authority names host and port.
      if ((has & ((1 << kind.scheme) | (1 << kind.path))) !== 0) return "pseudo_unexpected";
      if (this.authority === "") return "pseudo_missing";
      if (this.hosts > 0 && this.host !== this.authority) return "host";
      return isAuthority(this.authority) ? null : "authority";
    }
    const needed = (1 << kind.scheme) | (1 << kind.path);
    if ((has & needed) !== needed) return "pseudo_missing";
    if (this.scheme !== "http" && this.scheme !== "https") return "scheme";
    if (!isPath(this.path) && !(this.path === "*" && this.method === "OPTIONS")) return "path";
    if (this.hosts > 0) {
      if ((has & (1 << kind.authority)) === 0) this.authority = this.host;
      else if (this.host !== this.authority) return "host";
    }
    return isAuthority(this.authority) ? null : "authority";
  }
}

export interface RequestLine {
  readonly method: string;
  readonly scheme: string;
  readonly authority: string;
  readonly path: string;
}

/** For `requestPseudo`: one a connection, so that an ordinary request makes no array. */
export const pseudoTemplate = (): string[] => [":method", "", ":scheme", "", ":authority", "", ":path", ""];

/** Pseudo-headers of a request, names and values in turn. CONNECT has no scheme and path, but an extended one has (`protocol`). */
export function requestPseudo(template: string[], head: RequestLine, protocol: string): HeaderList {
  const { method, scheme, authority, path } = head;
  if (method === "CONNECT") {
    const connect = [":method", method, ":authority", authority];
    return protocol === "" ? connect : [...connect, ":scheme", scheme, ":path", path, ":protocol", protocol];
  }
  if (authority === "") return [":method", method, ":scheme", scheme, ":path", path];
  template[1] = method;
  template[3] = scheme;
  template[5] = authority;
  template[7] = path;
  return template;
}

const statuses: readonly HeaderList[] = Array.from({ length: 1_000 }, (_, status) => [":status", String(status)]);

export const statusPseudo = (status: number): HeaderList => statuses[status] ?? [":status", String(status)];
