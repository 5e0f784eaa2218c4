// Arbitrary requests and answers for the model of versions-model.ts.
import fc from "fast-check";
import type { Asked, Fields, Planned } from "./versions-model.ts";

const names = fc.constantFrom("x-a", "x-b", "x-some-name", "x-z");
const values = fc.stringMatching(/^(?:[!-~](?:[ -~]{0,30}[!-~])?)?$/);
const fields: fc.Arbitrary<Fields> = fc.array(fc.tuple(names, values), { maxLength: 5 });
const trailers: fc.Arbitrary<Fields> = fc.uniqueArray(fc.tuple(names, fc.stringMatching(/^[a-z0-9]{1,20}$/)), {
  maxLength: 3,
  selector: ([name]) => name,
});
const body = fc.array(fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(4_095, 4_096, 16_384, 40_000)), {
  maxLength: 4,
});
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;

/** A request of a client of either version. */
export const anyAsked = record<Asked>({
  method: fc.constantFrom("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"),
  path: fc.stringMatching(/^\/[a-zA-Z0-9/%._~-]{0,20}(?:\?[a-z0-9=&]{0,10})?$/),
  fields,
  cookies: fc.array(fc.stringMatching(/^[a-z]{1,4}=[a-z0-9]{1,8}$/), { maxLength: 3 }),
  takesTrailers: fc.boolean(),
  body,
  saysLength: fc.boolean(),
  trailers,
}).map((asked) =>
  asked.method === "GET" || asked.method === "HEAD" || asked.method === "OPTIONS" ? { ...asked, body: [] } : asked,
);
/** How its server answers. */
export const anyPlan = record<Planned>({
  status: fc.constantFrom(200, 200, 200, 201, 204, 304, 404, 500),
  fields,
  body,
  saysLength: fc.boolean(),
  trailers,
  hints: fc.boolean(),
});
