// HTTP/1.1 and HTTP/2 on either side of the lane: whatever a client asks arrives at the server as it was meant, and the other way round.
import assert from "node:assert/strict";
import { Agent } from "node:http";
import { connect } from "node:http2";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { startLane } from "../kit/http-lane.ts";
import { type Asked, ask1, ask2, expected, type Fields, type Planned, planServer } from "../kit/versions-model.ts";

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

const anyAsked = record<Asked>({
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
const anyPlan = record<Planned>({
  status: fc.constantFrom(200, 200, 200, 201, 204, 304, 404, 500),
  fields,
  body,
  saysLength: fc.boolean(),
  trailers,
  hints: fc.boolean(),
});

async function pass(t: TestContext, from: 1 | 2, to: 1 | 2): Promise<(asked: Asked, plan: Planned) => Promise<void>> {
  const server = await planServer(to === 2);
  const lane = await startLane(server.port, { upstream: to === 2 ? "http2" : "http1" });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const session = connect(`http://127.0.0.1:${lane.port}`);
  t.after(async () => {
    agent.destroy();
    session.destroy();
    await lane[Symbol.asyncDispose]();
    server.close();
  });
  return async (asked, plan) => {
    const got = from === 1 ? await ask1(lane.port, agent, asked, plan) : await ask2(session, asked, plan);
    assert.deepEqual(got, expected(asked, plan, from, to));
    assert.deepEqual([lane.refused, lane.threw], [[], []]);
  };
}

for (const from of [1, 2] as const)
  for (const to of [1, 2] as const)
    test(`[TRF-7] HTTP/${from} to HTTP/${to}: method, path, fields, cookies, body, trailers and interim answers against a plain model`, async (t) => {
      const check = await pass(t, from, to);
      await fc.assert(fc.asyncProperty(anyAsked, anyPlan, check), { numRuns: 60 });
    });
