// The parts of ResiliencePolicy that are done to requests before any route: faultInjection, tarpit, divert (controller/sources/resilience-actions.ts).
import {
  choice,
  duration,
  fieldText,
  headerName,
  integer,
  list,
  object,
  objectName,
  type Schema,
  string,
} from "./schema.ts";

const percent = integer("Share of the requests.", 1, 100, 100);
const headers = list(
  "Only requests that have all of these; every request where left out.",
  16,
  object(
    "One header.",
    {
      type: choice("How the value is compared.", ["Exact", "RegularExpression"], "Exact"),
      name: headerName("Name of the header."),
      value: fieldText("The value, or an expression in RE2's syntax that matches the whole of it.", 4096),
    },
    { required: ["name", "value"] },
  ),
);
const expires = (description: string): Schema =>
  string(description, 40, [
    {
      rule: "self.matches(r'^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.][0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$')",
      message: 'is not a time: write it as "2030-01-31T18:00:00Z"',
    },
    {
      // Of a day that no calendar has CEL makes an error, which is a refusal, too.
      rule: "timestamp(self) >= timestamp('1970-01-01T00:00:01Z')",
      message: 'is no time that there is, or before 1970: write it as "2030-01-31T18:00:00Z"',
    },
  ]);
const reference = object(
  "A Service. One of another namespace must be allowed by a ReferenceGrant there.",
  {
    group: choice('API group: "", the core group.', [""], ""),
    kind: choice("Kind.", ["Service"], "Service"),
    namespace: objectName("The policy's own where left out."),
    name: objectName("Name of the Service."),
    port: integer("Port of the Service.", 1, 65_535),
  },
  { required: ["name", "port"] },
);

export const actions = (grpcCode: (description: string) => Schema): Readonly<Record<string, Schema>> => ({
  faultInjection: object(
    "Faults on purpose, before every filter of every route of the Service. faultInjection: false in the MeshSettings switches all of them off.",
    {
      headers,
      delay: object(
        "Requests are kept waiting.",
        { duration: duration("For how long.", "1ms", "1h"), percent },
        { required: ["duration"] },
      ),
      abort: object(
        "Requests are answered with a failure.",
        {
          status: integer("HTTP status.", 200, 599),
          grpcCode: grpcCode("gRPC status: a name as UNAVAILABLE, or 1 to 16."),
          percent,
        },
        {
          rules: [
            {
              rule: "has(self.status) != has(self.grpcCode)",
              message: "needs either status or grpcCode: keep one of the two",
            },
          ],
        },
      ),
      expires: expires("From then on nothing is injected."),
    },
    {
      required: ["expires"],
      rules: [{ rule: "has(self.delay) || has(self.abort)", message: "has neither delay nor abort: add one of them" }],
    },
  ),
  tarpit: object(
    "Requests are kept waiting and then answered, and reach no server.",
    {
      headers,
      percent,
      hold: duration("How long the answer is kept back.", "1ms", "10m"),
      status: integer("The answer.", 400, 599, 429),
      expires: expires("From then on nothing is held; never where left out."),
    },
    { required: ["hold"] },
  ),
  divert: object(
    "Requests go to another Service, such as a honeypot.",
    {
      headers,
      percent,
      backendRef: reference,
      expires: expires("From then on nothing is diverted; never where left out."),
    },
    { required: ["backendRef"] },
  ),
});
