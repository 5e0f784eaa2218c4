// One request as rules ask about it: each fact worked out at most once, and only if some rule asks. Pure; reused from request to request.
import type { RequestFeatures } from "../api/enricher.ts";
import type { MeshSettings } from "../api/settings.ts";
import { type IpBytes, parseIp } from "../base/ip.ts";
import type { RequestHead } from "../http.ts";
import type { PathReadings } from "./patterns.ts";
import { isAmbiguous, normalizePath, pathOf, plainestReading } from "./request-path.ts";

export type ReadingSettings = Pick<MeshSettings, "pathNormalization" | "trustedProxies">;

/** A request that says nothing. */
export const noHead: RequestHead = {
  method: "",
  scheme: "http",
  authority: "",
  path: "",
  header: () => undefined,
  headers: () => [],
};

export class RequestView implements PathReadings {
  readonly #settings: ReadingSettings;
  #head: RequestHead = noHead;
  #sourceIp: IpBytes | undefined;
  /** Server name of the TLS connection, "" for none; undefined if not known. */
  sni: string | undefined;
  /** What the enricher found out; undefined: it is off. */
  features: RequestFeatures | undefined;
  #hasPath = false;
  #path = "";
  #deep = "";
  #isAmbiguous = false;
  #hasRemote = false;
  #remote: IpBytes | undefined;
  // A connection's requests mostly name the same host.
  #authority = "";
  #hosts: readonly string[] = [""];

  constructor(settings: ReadingSettings) {
    this.#settings = settings;
  }

  start(head: RequestHead, sourceIp: IpBytes | undefined, sni: string | undefined, features?: RequestFeatures): void {
    this.#head = head;
    this.#sourceIp = sourceIp;
    this.sni = sni;
    this.features = features;
    this.#hasPath = false;
    this.#hasRemote = false;
  }
  /** Lets go of the head. */
  end(): void {
    this.#head = noHead;
  }

  get method(): string {
    return this.#head.method;
  }
  get path(): string {
    if (!this.#hasPath) this.#readPath();
    return this.#path;
  }
  get deep(): string {
    if (!this.#hasPath) this.#readPath();
    return this.#deep;
  }
  get isAmbiguous(): boolean {
    if (!this.#hasPath) this.#readPath();
    return this.#isAmbiguous;
  }
  #readPath(): void {
    const path = pathOf(this.#head.path);
    this.#path = normalizePath(path, this.#settings.pathNormalization);
    this.#deep = plainestReading(path);
    this.#isAmbiguous = isAmbiguous(this.#path, this.#deep);
    this.#hasPath = true;
  }

  /** The host in lower case as written, without its port, and without a final dot: a pattern may mean any of them. */
  get hosts(): readonly string[] {
    const { authority } = this.#head;
    if (authority !== this.#authority) {
      this.#authority = authority;
      this.#hosts = hostReadings(authority);
    }
    return this.#hosts;
  }

  /** A header's value, several fields joined; "host" and pseudo-headers mean the same in every HTTP version. */
  header(name: string): string | undefined {
    switch (name) {
      case "host":
      case ":authority":
        return this.#head.authority === "" ? undefined : this.#head.authority;
      case ":method":
        return this.#head.method;
      case ":path":
        return this.#head.path;
      case ":scheme":
        return this.#head.scheme;
      default:
        return this.#head.header(name);
    }
  }

  /** Whether some single field of that name satisfies the test: a client may send several. */
  someField(name: string, test: (value: string) => boolean): boolean {
    const list = this.#head.headers();
    for (let i = 0; i + 1 < list.length; i += 2) if (list[i] === name && test(list[i + 1] as string)) return true;
    return false;
  }

  /** The client's address: the connection's, or what the trusted proxies wrote (Istio's numTrustedProxies). Undefined if that is no address. */
  get remoteIp(): IpBytes | undefined {
    if (!this.#hasRemote) {
      this.#remote = this.#readRemote();
      this.#hasRemote = true;
    }
    return this.#remote;
  }
  #readRemote(): IpBytes | undefined {
    const { trustedProxies } = this.#settings;
    if (trustedProxies === 0) return this.#sourceIp;
    const entries = (this.#head.header("x-forwarded-for") ?? "").split(",");
    const entry = entries[entries.length - trustedProxies];
    if (entry === undefined || (entries.length === 1 && entry.trim() === "")) return this.#sourceIp;
    return parseIp(entry.trim());
  }
}

export function hostReadings(authority: string): readonly string[] {
  const whole = authority.toLowerCase();
  const colon = whole.startsWith("[") ? whole.indexOf(":", whole.indexOf("]")) : whole.lastIndexOf(":");
  const host = colon < 0 ? whole : whole.slice(0, colon);
  const readings = host === whole ? [whole] : [whole, host];
  if (host.endsWith(".") && host.length > 1) {
    const bare = host.slice(0, -1);
    readings.push(bare);
    if (host !== whole) readings.push(bare + whole.slice(host.length));
  }
  return readings;
}
