import assert from "node:assert/strict";
import { test } from "node:test";
import { seededRandom } from "../../agent/base/random.ts";
import { RouteTable, routeRequest } from "../../agent/decide/http/route-table.ts";
import { requestHead } from "../kit/http-heads.ts";
import { evaluate, type PlainRequest } from "./gateway-api.ts";
import { RouteMaker } from "./random-routes.ts";

const headOf = (request: PlainRequest, port: string) =>
  requestHead({
    method: request.method,
    authority: request.host.toUpperCase() + port,
    path:
      request.path + (request.query.length === 0 ? "" : `?${request.query.map((pair) => pair.join("=")).join("&")}`),
    headers: request.headers,
  });

test("[TRF-1] 10,000 random tables: the same match as a plain reading of Gateway API", () => {
  const seed = 20_261_121;
  const random = seededRandom(seed);
  const maker = new RouteMaker(random);
  let found = 0;
  for (let i = 0; i < 10_000; i++) {
    const routes = maker.routes();
    const table = new RouteTable(routes);
    for (let j = 0; j < 4; j++) {
      const request = maker.request();
      const expected = evaluate(routes, request);
      const hit = routeRequest(table, headOf(request, j % 2 === 0 ? "" : ":8080"));
      const ours = hit && { route: hit.rule.route, rule: hit.rule.index, match: hit.match };
      assert.deepEqual(ours, expected, `seed ${seed}, table ${i}: ${JSON.stringify({ request, routes })}`);
      if (hit !== undefined) found++;
    }
  }
  // The comparison is worth something only if many requests find a route, and many do not.
  assert.ok(found > 10_000 && found < 35_000, `${found} of 40000 found a route`);
});
