// The CRD of ResiliencePolicy. Its bounds are those of controller/sources/resilience-kind.ts: a test compares the two on generated objects.
import { actions } from "./resilience-actions.ts";
import { balancing } from "./resilience-balancing.ts";
import {
  choice,
  conditions,
  duration,
  fieldText,
  flag,
  integer,
  list,
  notAbove,
  number,
  object,
  objectName,
  type Schema,
  string,
} from "./schema.ts";

const targetRefs: Schema = list(
  "Services of this namespace that the policy is for. Of several policies for one Service the oldest holds, whole.",
  16,
  object(
    "One Service.",
    {
      group: choice('API group of the target: "", the core group.', [""], ""),
      kind: choice("Kind of the target.", ["Service"], "Service"),
      namespace: objectName("The policy's own where left out: a policy holds in no other."),
      name: objectName("Name of the Service."),
    },
    { required: ["name"] },
  ),
  {
    minItems: 1,
    "x-kubernetes-validations": [
      {
        rule: "self.all(a, self.exists_one(b, b.name == a.name))",
        message: "a Service stands there twice: remove one of the two",
      },
    ],
  },
);

const grpcCodeNames =
  "'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS', 'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', " +
  "'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED', 'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED'";
/** A gRPC status code of a failure, by name or number. */
export const grpcCode = (description: string): Schema => ({
  description,
  "x-kubernetes-int-or-string": true,
  "x-kubernetes-validations": [
    {
      rule: `type(self) == int ? self >= 1 && self <= 16 : self in [${grpcCodeNames}]`,
      message: "is not a code of a failure: write a name as UNAVAILABLE, or 1 to 16",
    },
  ],
});

const retry: Schema = object("Requests that failed are sent again. Left out: only what reached no server.", {
  enabled: flag("False: as if the whole part were left out.", true),
  maxAttempts: integer("Tries after the first.", 0, 10, 2),
  on: {
    ...list(
      "Failures that are tried again. Refused is a request that the other side says it did not begin.",
      4,
      choice("A failure.", ["ConnectFailure", "Refused", "Reset", "Timeout"]),
    ),
    default: ["ConnectFailure", "Refused"],
  },
  statusCodes: list("HTTP answers that are tried again.", 32, integer("A status code.", 400, 599)),
  grpcCodes: list("gRPC answers that are tried again.", 16, grpcCode("A name as UNAVAILABLE, or 1 to 16.")),
  timeout: duration("For each try; at most timeout.request.", "1ms", "1h"),
  backoff: object(
    "The wait before the next try, growing from base to max, with jitter.",
    {
      base: duration("Before the second try.", "1ms", "60s", "25ms"),
      max: duration("At most; 250ms, or base if that is longer, where left out.", "1ms", "1h"),
    },
    { rules: [notAbove("base", "max")] },
  ),
  budget: object("How many retries there may be at all, so that they do not make an overload worse.", {
    percent: integer("Retries per hundred requests of the last 10 s.", 1, 100, 20),
    minPerSecond: integer("Retries that are allowed in any case.", 1, 10_000, 3),
  }),
  anyMethod: flag("Also retry what may have had an effect (POST and the like, RFC 9110 section 9.2.2).", false),
  maxBodyBytes: integer("A request with a longer body is not kept, and so not tried again.", 1, 16_777_216, 65_536),
});

const timeout: Schema = object(
  "How long is waited for what.",
  {
    enabled: flag("False: as if the whole part were left out.", true),
    request: duration("From the request's head to the answer's end, all tries; 0s is none.", "0s", "24h"),
    response: duration("From the request's end to the answer's head; 0s is none.", "0s", "24h"),
    connect: duration("For a new connection.", "1ms", "24h"),
    idle: duration("Without a byte in either direction; 0s is none.", "0s", "24h"),
  },
  {
    rules: ["response", "connect"].map((less) => notAbove(less, "request", "duration(self.request) == duration('0s')")),
  },
);

const circuitBreaker: Schema = object(
  "Endpoints that fail are left alone for a time: closed, open, half open with one probe. Per endpoint and client namespace.",
  {
    enabled: flag("False: as if the whole part were left out.", true),
    failures: integer("Failures in a row that open it.", 1, 10_000, 5),
    openTime: duration("Until the first probe; doubles with each that fails.", "100ms", "1h", "5s"),
    maxOpenTime: duration("At most; 30s, or openTime if that is longer, where left out.", "100ms", "1h"),
  },
  { rules: [notAbove("openTime", "maxOpenTime")] },
);

const outlierEjection: Schema = object(
  "Endpoints that do worse than the others are left out for a time. At least one of consecutiveErrors, successRateStdev and latencyFactor is set.",
  {
    consecutiveErrors: integer("Errors in a row that eject an endpoint; 0 is off.", 0, 10_000, 0),
    successRateStdev: number(
      "Ejected below the mean minus this times the standard deviation of all endpoints' success rates; 0 is off.",
      0,
      100,
      0,
    ),
    latencyFactor: number("Ejected above this times the median of all endpoints' latencies; 0 is off.", 0, 1000, 0),
    minEndpoints: integer("Fewer endpoints are not compared.", 1, 1_000_000, 5),
    minRequests: integer("An endpoint with fewer requests is not compared.", 1, 1_000_000, 100),
    interval: duration("Between comparisons.", "100ms", "1h", "10s"),
    baseEjectionTime: duration("Length of the first ejection; grows with each.", "100ms", "24h", "30s"),
    maxEjectionTime: duration("At most; 5m, or baseEjectionTime if that is longer, where left out.", "100ms", "24h"),
    maxEjectionPercent: integer("Of the endpoints, at a time.", 1, 100, 10),
  },
  {
    rules: [
      {
        rule: "self.consecutiveErrors > 0 || self.successRateStdev > 0.0 || self.latencyFactor > 0.0",
        message: "ejects nothing: set consecutiveErrors, successRateStdev or latencyFactor",
      },
      notAbove("baseEjectionTime", "maxEjectionTime"),
    ],
  },
);

const healthCheck: Schema = object(
  "Endpoints are asked whether they are well.",
  {
    type: choice("How endpoints are asked.", ["HTTP", "GRPC", "TCP"], "HTTP"),
    path: string("What is asked for (HTTP); / where left out.", 1024, [
      { rule: "self.startsWith('/')", message: 'does not begin with "/": write it as "/a/b"' },
      {
        rule: String.raw`!self.matches(r'//|/\.\.?(/|$)|%2[fF]|[^!-~]|[?#]')`,
        message: 'has "//", a "." or ".." segment, an encoded slash, a query, a space or the like: write it as "/a/b"',
      },
    ]),
    host: fieldText("Whom the request is for (HTTP, GRPC); the endpoint where left out.", 253),
    grpcService: fieldText("Service that is asked about (grpc.health.v1).", 253),
    port: integer("The endpoint's own where left out.", 1, 65_535),
    interval: duration("Between checks.", "100ms", "1h", "10s"),
    timeout: duration("For the answer; at most interval.", "10ms", "60s", "1s"),
    unhealthyThreshold: integer("Failed checks in a row until the endpoint is left out.", 1, 100, 3),
    healthyThreshold: integer("Good checks in a row until it is used again.", 1, 100, 2),
  },
  {
    rules: [
      notAbove("timeout", "interval"),
      {
        rule: "self.type == 'HTTP' || !has(self.path)",
        message: "path goes with the type HTTP only: remove it",
        fieldPath: ".path",
      },
      {
        rule: "self.type != 'TCP' || !has(self.host) || self.host == ''",
        message: "host does not go with the type TCP: remove it",
        fieldPath: ".host",
      },
      {
        rule: "self.type == 'GRPC' || !has(self.grpcService) || self.grpcService == ''",
        message: "grpcService goes with the type GRPC only: remove it",
        fieldPath: ".grpcService",
      },
    ],
  },
);

const most = (description: string): Schema => integer(`${description} 0 is no limit.`, 0, 10_000_000, 0);
const connectionPool: Schema = object("How much there may be at a time.", {
  maxConnections: most("Connections to the service."),
  maxPending: most("Requests that wait for a connection."),
  maxRequests: most("Requests under way."),
  maxRequestsPerConnection: most("Requests after which a connection is closed."),
  maxRetries: most("Retries under way."),
});

// With a default: a null, as server-side apply makes of an object whose last field was taken back, is none.
const render: Schema = {
  ...object(
    "What is written to the cluster for other programs; agents need none of it. Off, disabled or deleted, nothing of it stays.",
    {
      httpRoutes: flag(
        "HTTPRoutes (Gateway API) of the target Services with this policy's timeouts and retries, owned by the policy. A Service that has routes of its own gets none.",
        false,
      ),
      serviceAnnotations: flag(
        "Annotations on the target Services that Linkerd reads: failure accrual, retries, timeouts. Annotations of others stay as they are.",
        false,
      ),
    },
  ),
  default: {},
};

const spec: Schema = object(
  "How requests to the Services are retried, timed, balanced, limited and tested.",
  {
    enabled: flag("False: the policy holds for no Service, and nothing that it had written stays.", true),
    targetRefs,
    retry,
    timeout,
    circuitBreaker,
    outlierEjection,
    healthCheck,
    connectionPool,
    ...balancing,
    ...actions(grpcCode),
    render,
  },
  {
    required: ["targetRefs"],
    rules: [
      notAbove(
        "retry.timeout",
        "timeout.request",
        "duration(self.timeout.request) == duration('0s') || !self.retry.enabled || !self.timeout.enabled",
      ),
    ],
  },
);
const status: Schema = object("What became of the policy.", {
  conditions,
  observedGeneration: {
    description: "Generation of the spec that the rest was found of.",
    type: "integer",
    format: "int64",
    minimum: 0,
  },
  appliedToServices: list("Services that the policy holds for, as namespace/name.", 16, string("A Service.", 317)),
  lastUpdateTime: { description: "When the status changed last.", type: "string", format: "date-time" },
});

const columns = [
  ["Targets", "string", ".spec.targetRefs[*].name", 0],
  ["Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0],
  ["Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0],
  ["Enforced", "string", '.status.conditions[?(@.type=="Enforced")].status', 0],
  ["Nodes", "string", '.status.conditions[?(@.type=="Enforced")].message', 1],
  ["Services", "string", ".status.appliedToServices", 1],
  ["Age", "date", ".metadata.creationTimestamp", 0],
] as const;

export const resiliencePolicyCrd = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "resiliencepolicies.mesh.fairlead.dev" },
  spec: {
    group: "mesh.fairlead.dev",
    scope: "Namespaced",
    names: {
      kind: "ResiliencePolicy",
      listKind: "ResiliencePolicyList",
      plural: "resiliencepolicies",
      singular: "resiliencepolicy",
      shortNames: ["respol"],
      categories: ["fairlead"],
    },
    versions: [
      {
        name: "v1alpha1",
        served: true,
        storage: true,
        subresources: { status: {} },
        additionalPrinterColumns: columns.map(([name, type, jsonPath, priority]) => ({
          name,
          type,
          jsonPath,
          ...(priority === 0 ? {} : { priority }),
        })),
        schema: {
          openAPIV3Schema: object(
            "ResiliencePolicy says how HTTP requests to Services of its namespace are retried, timed, balanced, limited and tested.",
            {
              apiVersion: { description: "mesh.fairlead.dev/v1alpha1", type: "string" },
              kind: { description: "ResiliencePolicy", type: "string" },
              metadata: { type: "object" },
              spec,
              status,
            },
            { required: ["spec"] },
          ),
        },
      },
    ],
  },
};
