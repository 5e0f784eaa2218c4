// How a route's conditions read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { matchText } from "./routes.ts";

test("[OPS-3] a match reads as a request would", () => {
  const path = (kind: string, value: string) => ({ path: { kind, value }, headers: [], query: [], method: "" });
  assert.equal(matchText(path("prefix", "/")), "/*");
  assert.equal(matchText(path("prefix", "/cart")), "/cart/*");
  assert.equal(matchText(path("exact", "/cart")), "/cart");
  assert.equal(matchText(path("regex", "/c.*")), "~/c.*");
  assert.equal(matchText({ headers: [], query: [], method: "" }), "all");
  assert.equal(
    matchText({
      ...path("exact", "/a"),
      method: "POST",
      headers: [{ name: "x-user", kind: "exact", value: "ada" }],
      query: [{ name: "v", kind: "regex", value: "1|2" }],
    }),
    "POST /a x-user=ada ?v~1|2",
  );
  assert.equal(
    matchText({ grpc: { kind: "exact", service: "shop.Cart", method: "" }, headers: [], query: [], method: "" }),
    "shop.Cart/*",
  );
});
