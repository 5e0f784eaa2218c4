// Random routes and requests over few words, so that they meet often. One seed gives the same again.
import type { FieldMatch, RouteMatch } from "../../agent/api/http-match.ts";
import { noTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRoute } from "../../agent/api/http-routing.ts";
import type { Random } from "../../agent/base/random.ts";
import type { PlainRequest } from "./gateway-api.ts";

export class RouteMaker {
  readonly #random: Random;
  constructor(random: Random) {
    this.#random = random;
  }

  #of<T>(...choices: readonly T[]): T {
    return choices[this.#random.below(choices.length)] as T;
  }
  #list<T>(most: number, make: () => T): T[] {
    return Array.from({ length: this.#random.below(most + 1) }, make);
  }
  #segment(): string {
    return this.#of("a", "b", "ab", "v1", "");
  }
  #path(): string {
    return `/${this.#list(3, () => this.#segment()).join("/")}`;
  }
  #field(names: readonly string[]): FieldMatch {
    const kind = this.#of<"exact" | "regex">("exact", "exact", "regex");
    return {
      name: this.#of(...names),
      kind,
      value: kind === "regex" ? this.#of("[xy]", "x.*", ".*") : this.#of("x", "y"),
    };
  }
  #fields(names: readonly string[]): FieldMatch[] {
    return this.#of(true, false) ? [] : this.#list(3, () => this.#field(names));
  }

  #match(kind: HttpRoute["kind"]): RouteMatch {
    const headers = this.#fields(["h1", "h2", "h3"]);
    if (kind === "grpc") {
      const grpcKind = this.#of<"exact" | "regex">("exact", "exact", "regex");
      const part = (words: readonly string[], regexes: readonly string[]): string =>
        this.#of("", this.#of(...(grpcKind === "regex" ? regexes : words)));
      const grpc = {
        kind: grpcKind,
        service: part(["a", "b.S"], ["a|b", ".*S"]),
        method: part(["v1", "M"], ["[vM].*"]),
      };
      return { path: undefined, headers, query: [], method: "", grpc: this.#of(grpc, grpc, undefined) };
    }
    const pathKind = this.#of<"exact" | "prefix" | "regex">("exact", "prefix", "prefix", "regex");
    const value = pathKind === "regex" ? this.#of("/a.*", "/[ab]+", "/.*/v1", "/[^/]*/b") : this.#path();
    return {
      path: this.#random.below(5) === 0 ? undefined : { kind: pathKind, value },
      headers,
      query: this.#fields(["q1", "q2"]),
      method: this.#of("", "", "GET", "POST"),
      grpc: undefined,
    };
  }

  routes(): HttpRoute[] {
    return this.#list(6, () => {
      const kind = this.#of<"http" | "grpc">("http", "http", "http", "grpc");
      return {
        kind,
        name: this.#of("r1", "r2", "r3") + this.#random.below(1000),
        namespace: this.#of("n1", "n2"),
        createdMs: this.#of(0, 1, 2),
        ports: [],
        consumers: "",
        hostnames: this.#list(2, () => this.#of("a.example", "*.example", "x.a.example", "*.a.example", "example")),
        rules: this.#list(4, () => ({
          name: "",
          matches: this.#list(3, () => this.#match(kind)),
          filters: [],
          backends: [],
          timeouts: noTimeouts,
          retry: undefined,
          affinity: undefined,
        })),
      };
    });
  }

  request(): PlainRequest {
    const headers: Record<string, string> = {};
    for (const name of ["h1", "h2", "h3"]) if (this.#of(true, false)) headers[name] = this.#of("x", "y", "z");
    const isGrpc = this.#random.below(3) === 0;
    if (isGrpc) headers["content-type"] = this.#of("application/grpc", "application/grpc+proto");
    return {
      method: this.#of("GET", "POST"),
      host: this.#of("a.example", "x.a.example", "y.x.a.example", "b.example", "example", "other"),
      path: isGrpc ? `/${this.#of("a", "b.S", "c")}/${this.#of("v1", "M", "N")}` : this.#path(),
      query: this.#list(3, () => [this.#of("q1", "q2"), this.#of("x", "y", "")] as const),
      headers,
    };
  }
}
