// What consistent hashing hashes, and which endpoint a session sticks to. Pure.
import type { Balancer, SessionAffinity } from "../../api/http-policy.ts";
import type { Random } from "../../base/random.ts";
import type { RequestHead } from "../../http.ts";
import { cookieValue, queryValue } from "../http/request-target.ts";
import { hashText, mix } from "./hash.ts";

/** Key of a request for Picker.pick; one that lacks what is hashed goes anywhere. */
export function keyOf(
  { hashOn, hashName }: Pick<Balancer, "hashOn" | "hashName">,
  head: RequestHead,
  sourceAddress: string,
  random: Random,
): number {
  const text = textOf(hashOn, hashName, head, sourceAddress);
  return text === undefined ? random.below(2 ** 32) : hashText(text);
}
function textOf(on: Balancer["hashOn"], name: string, head: RequestHead, sourceAddress: string): string | undefined {
  switch (on) {
    case "source":
      return sourceAddress;
    case "header":
      return head.header(name);
    case "cookie":
      return cookieValue(head.header("cookie"), name);
    case "query":
      return queryValue(head.path, name);
  }
}

/**
 * Names an endpoint in a client's cookie or header: a hash, so that no address leaves the mesh, and two times (seconds since 2020,
 * base 36) where a session ends. Clients may make one up; it leads to no endpoint that they could not get by chance.
 */
export function sessionToken(id: string, affinity: SessionAffinity, startedS: number, nowS: number): string {
  const name = tokenName(id);
  if (affinity.absoluteS === 0 && affinity.idleS === 0) return name;
  return `${name}.${(startedS - epochS).toString(36)}.${(nowS - epochS).toString(36)}`;
}
const epochS = 1_577_836_800;
const tokenName = (id: string): string => {
  const hash = hashText(id);
  return hash.toString(36) + mix(hash ^ hashText(`${id}/`)).toString(36);
};

/** The sessions of one set of endpoints; swapped together with its picker. */
export class Sessions {
  readonly #byToken: ReadonlyMap<string, number>;
  readonly #ids: readonly string[];
  constructor(ids: readonly string[]) {
    this.#ids = ids;
    this.#byToken = new Map(ids.map((id, i) => [tokenName(id), i]));
  }

  /** Where the request's session is, or undefined: none, ended, or its endpoint is gone. Whether it may be picked is for the caller to see. */
  find(affinity: SessionAffinity, head: RequestHead, nowS: number): Session | undefined {
    const token = tokenOf(affinity, head);
    if (token === undefined || token.length > 64) return undefined;
    const [name = "", started, seen] = token.split(".");
    const index = this.#byToken.get(name);
    if (index === undefined) return undefined;
    if (affinity.absoluteS === 0 && affinity.idleS === 0) return { index, startedS: nowS };
    const startedS = secondsOf(started);
    const seenS = secondsOf(seen);
    // A time that is missing, or lies in the future, was not written by us.
    if (!(startedS <= nowS && seenS <= nowS && startedS <= seenS)) return undefined;
    if (affinity.absoluteS > 0 && nowS - startedS >= affinity.absoluteS) return undefined;
    if (affinity.idleS > 0 && nowS - seenS >= affinity.idleS) return undefined;
    return { index, startedS };
  }

  /**
   * Name and value of the response's field that keeps the client at `index`; undefined where the client needs none: it has one without a
   * time limit of idleness, or its address decides. `session`: what find said, if its endpoint was taken.
   */
  fieldFor(
    affinity: SessionAffinity,
    index: number,
    session: Session | undefined,
    nowS: number,
    isSecure: boolean,
  ): readonly [name: string, value: string] | undefined {
    if (affinity.kind === "source") return undefined;
    if (session !== undefined && affinity.idleS === 0) return undefined;
    const token = sessionToken(this.#ids[index] as string, affinity, session?.startedS ?? nowS, nowS);
    if (affinity.kind === "header") return [affinity.name, token];
    const life = affinity.lifetimeS === 0 ? "" : `; Max-Age=${affinity.lifetimeS}`;
    return [
      "set-cookie",
      `${affinity.name}=${token}; Path=/${life}; HttpOnly; SameSite=Lax${isSecure ? "; Secure" : ""}`,
    ];
  }
}
export interface Session {
  readonly index: number;
  readonly startedS: number;
}
const secondsOf = (text: string | undefined): number =>
  text === undefined || !/^[0-9a-z]{1,8}$/.test(text) ? Number.NaN : Number.parseInt(text, 36) + epochS;

function tokenOf({ kind, name }: SessionAffinity, head: RequestHead): string | undefined {
  if (kind === "cookie") return cookieValue(head.header("cookie"), name);
  return kind === "header" ? head.header(name) : undefined;
}
