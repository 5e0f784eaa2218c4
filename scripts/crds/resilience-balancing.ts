// The parts of ResiliencePolicy that say which endpoint a request goes to (controller/sources/resilience-kind.ts).
import { choice, duration, fieldText, integer, isDuration, number, object, type Schema, tokenRule } from "./schema.ts";

/** A name goes with these types; of a header or cookie it must be one that HTTP allows. */
const nameRules = (without: string, tokens: readonly string[], isNeeded: string) => [
  {
    rule: `self.type != '${without}' || !has(self.name) || self.name == ''`,
    message: "a source address has no name: remove it",
    fieldPath: ".name",
  },
  {
    rule: `!(${isNeeded}) || (has(self.name) && self.name != '')`,
    message: "add the name of the header, cookie or query parameter",
    fieldPath: ".name",
  },
  {
    rule: `!(self.type in [${tokens.map((t) => `'${t}'`).join(", ")}]) || !has(self.name) || self.name == '' || ${tokenRule.rule.replace("self.", "self.name.")}`,
    message: tokenRule.message,
    fieldPath: ".name",
  },
];
const loadBalancer: Schema = object(
  "How an endpoint is chosen.",
  {
    algorithm: choice("The mesh's own where left out.", [
      "RoundRobin",
      "Random",
      "Weighted",
      "LeastRequest",
      "EWMA",
      "RingHash",
      "Maglev",
      "Rendezvous",
    ]),
    hashOn: object(
      "What RingHash, Maglev and Rendezvous hash; the client's address where left out.",
      {
        type: choice("Part of the request.", ["Source", "Header", "Cookie", "Query"]),
        name: fieldText("Of the header, cookie or query parameter.", 256),
      },
      { required: ["type"], rules: nameRules("Source", ["Header", "Cookie"], "self.type != 'Source'") },
    ),
    virtualNodes: integer("Of each endpoint on the ring.", 1, 10_000, 150),
    penalty: number(
      "Milliseconds that each request under way adds to an endpoint's latency (EWMA).",
      0.001,
      1_000_000,
      5,
    ),
    decay: duration("How fast old latencies fade (EWMA).", "100ms", "1h", "10s"),
    panicPercent: integer(
      "With a smaller share of healthy endpoints all are used, whatever ejections and health checks say; 0 is never.",
      0,
      100,
      50,
    ),
  },
  {
    rules: [
      {
        rule: "!has(self.hashOn) || (has(self.algorithm) && self.algorithm in ['RingHash', 'Maglev', 'Rendezvous'])",
        message: "has no effect with this algorithm: use RingHash, Maglev or Rendezvous",
        fieldPath: ".hashOn",
      },
    ],
  },
);
const slowStart: Schema = object(
  "A new or recovered endpoint comes to its full share little by little.",
  {
    window: duration("Until it has its full share.", "100ms", "1h"),
    minPercent: integer("Share that it begins with.", 1, 100, 10),
  },
  { required: ["window"] },
);
const locality: Schema = object(
  "Near endpoints are preferred.",
  {
    prefer: choice("The nearest tier preferred; wider ones follow it.", ["Region", "Zone", "Node"]),
    overprovisionPercent: integer(
      "How much of its capacity a tier may lose before requests go on to the next.",
      100,
      10_000,
      140,
    ),
    subsetSize: integer("Endpoints that one client uses; 0 is all.", 0, 10_000_000, 0),
  },
  { required: ["prefer"] },
);
const aMonth = (description: string): Schema => duration(description, "0s", "744h");
const sessionAffinity: Schema = object(
  "Requests of one client go to one endpoint.",
  {
    type: choice("By what a client is known again.", ["Cookie", "Header", "Source"]),
    name: fieldText("Of the cookie (fairlead-session where left out) or header.", 256),
    cookieLifetime: aMonth("Max-Age of the cookie; 0s is as long as the client's session."),
    absoluteTimeout: aMonth("After which the client is given an endpoint anew; 0s is never."),
    idleTimeout: aMonth("Without a request, after which the client is given an endpoint anew; 0s is never."),
  },
  {
    required: ["type"],
    rules: [
      ...nameRules(
        "Source",
        ["Header", "Cookie"],
        "self.type == 'Header' || (self.type == 'Cookie' && has(self.name))",
      ),
      {
        rule: `self.type == 'Cookie' || !has(self.cookieLifetime) || !${isDuration("self.cookieLifetime")} || duration(self.cookieLifetime) == duration('0s')`,
        message: "belongs to a cookie: remove it or use the type Cookie",
        fieldPath: ".cookieLifetime",
      },
    ],
  },
);

export const balancing = { slowStart, loadBalancer, locality, sessionAffinity } as const;
