// The CRD of RateLimitPolicy. Its bounds are those of controller/sources/rate-limit-kind.ts.
import { definition } from "./definition.ts";
import {
  choice,
  duration,
  flag,
  headerName,
  integer,
  list,
  number,
  object,
  objectName,
  type Schema,
  string,
  tokenRule,
} from "./schema.ts";

const key: Schema = object(
  "What requests are counted by: each value of it has a count of its own.",
  {
    type: choice("Default Address.", ["Address", "Identity", "Header", "Service", "Tenant", "AddressAndTenant"]),
    header: headerName("Header whose value tells clients or tenants apart."),
    ipv4PrefixLength: integer("Addresses with the same first bits count as one. Default 32.", 1, 32),
    ipv6PrefixLength: integer("Addresses with the same first bits count as one. Default 128.", 1, 128),
  },
  {
    rules: [
      {
        rule: "!has(self.type) || self.type != 'Header' || has(self.header)",
        message: "is missing: name the header whose value tells clients apart",
        fieldPath: ".header",
        reason: "FieldValueRequired",
      },
      {
        rule: "!has(self.header) || (has(self.type) && self.type in ['Header', 'Tenant', 'AddressAndTenant'])",
        message: "does not go with this type: remove it, or set type to Header or Tenant",
        fieldPath: ".header",
      },
      {
        rule: "(!has(self.ipv4PrefixLength) && !has(self.ipv6PrefixLength)) || !has(self.type) || self.type in ['Address', 'AddressAndTenant']",
        message: "prefix lengths do not go with this type: remove them, or set type to Address or AddressAndTenant",
      },
    ],
  },
);
const baseline: Schema = object(
  "A key whose requests are far above what was learned to be usual is held to a part of its limit.",
  {
    interval: duration("What is counted at a time. Default 10s.", "100ms", "1h"),
    learnIntervals: integer("Intervals that must have been seen before it acts. Default 30.", 1, 10_000),
    deviations: number("Above the mean by so many mean deviations. Default 4.", 0.1, 100),
    minRequests: integer("Fewer requests in an interval are never far above. Default 20.", 1, 1_000_000),
    limitPercent: integer("What is left of the limit meanwhile. Default 25.", 1, 100),
  },
);
const limit: Schema = object("One limit.", {
  name: objectName("Tells limits apart, in answers and metrics. Default: the type of its key.", true),
  key,
  requests: integer("So many requests in the window. Default 200.", 1, 10_000_000),
  per: duration("The window. Default 1m.", "1ms", "24h"),
  burst: integer("At most so many at once, after a pause. Default: as many as requests.", 1, 10_000_000),
  methods: list("Requests with one of these methods; none: all.", 32, string("A method.", 256, [tokenRule])),
  paths: list(
    'Requests to one of these paths: exact, "prefix*", "*suffix", or a template with {*} and {**}; none: all.',
    64,
    string("A path.", 2048),
  ),
  baseline,
});
const concurrency: Schema = object(
  "How many requests a pod has at once: found by comparing its latency now with what it is in the long run.",
  {
    initial: integer("Where it begins. Default 20.", 1, 100_000),
    min: integer("Never lower. Default 4.", 1, 100_000),
    max: integer("Never higher. Default 1000.", 1, 100_000),
    tolerance: number("It falls once latency is above this times the long-run one. Default 1.5.", 1, 10),
    smoothing: number("Share of each new estimate. Default 0.2.", 0.01, 1),
    interval: duration("Between two estimates. Default 1s.", "100ms", "1m"),
  },
  {
    rules: [
      {
        rule: "(has(self.min) ? self.min : 4) <= (has(self.max) ? self.max : 1000)",
        message: "is more than max: lower it or raise max",
        fieldPath: ".min",
      },
      {
        rule: "!has(self.initial) || (self.initial >= (has(self.min) ? self.min : 4) && self.initial <= (has(self.max) ? self.max : 1000))",
        message: "is not within min and max",
        fieldPath: ".initial",
      },
    ],
  },
);

const spec: Schema = object(
  "Neither limits nor concurrency: 200 requests a minute for each address.",
  {
    targetRefs: list(
      "Services of this namespace whose pods are limited.",
      16,
      object(
        "One Service.",
        {
          group: choice('API group of the target: "", the core group.', [""]),
          kind: choice("Kind of the target.", ["Service"]),
          name: objectName("Name of the Service."),
        },
        { required: ["kind", "name"] },
      ),
    ),
    selector: object("Pods that are limited: of this namespace, or of the whole mesh in the root namespace.", {
      matchLabels: {
        description: "Labels that a pod has, all of them.",
        type: "object",
        maxProperties: 64,
        additionalProperties: { type: "string", maxLength: 63 },
      },
    }),
    dryRun: flag("Limits nothing; what it would refuse is noted and counted."),
    responseHeaders: choice("Which answers carry the RateLimit headers. Default Limited: the refused ones.", [
      "Limited",
      "Always",
      "Never",
    ]),
    limits: list("All of them hold.", 16, limit),
    concurrency,
  },
  {
    rules: [
      {
        rule: "!has(self.targetRefs) || self.targetRefs.size() == 0 || !has(self.selector) || !has(self.selector.matchLabels) || self.selector.matchLabels.size() == 0",
        message: "does not go with targetRefs: keep one of the two",
        fieldPath: ".selector",
      },
    ],
  },
);

export const rateLimitPolicyCrd = definition({
  kind: "RateLimitPolicy",
  plural: "ratelimitpolicies",
  shortName: "ratepol",
  scope: "Namespaced",
  description: "RateLimitPolicy says how many HTTP requests pods take, by whom, and how many at once.",
  spec,
  columns: [
    ["Targets", "string", ".spec.targetRefs[*].name"],
    ["DryRun", "boolean", ".spec.dryRun"],
  ],
});
