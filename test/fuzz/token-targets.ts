// A token that anybody may send, before the API server is asked about it: any bytes are read or refused, and never taken for longer than it says.
import assert from "node:assert/strict";
import { readClaims } from "../../controller/issue/token-claims.ts";
import { readReview } from "../../controller/issue/token-reviews.ts";
import { type FuzzTarget, shape } from "./target.ts";

/** The input as a token, and as the payload of one. */
function token(input: Buffer): string {
  const text = input.toString("latin1");
  const outcomes = [text, `h.${input.toString("base64url")}.s`].map((one) => {
    const claims = readClaims(one);
    if (!claims.ok) return shape(claims.error);
    const { audiences, expiresMs, notBeforeMs } = claims.value;
    assert.ok(audiences.every((audience) => typeof audience === "string"));
    for (const ms of [expiresMs, notBeforeMs]) assert.ok(Number.isFinite(ms) && ms >= 0);
    return `claims ${Math.min(3, audiences.length)} ${expiresMs > 0} ${notBeforeMs > 0}`;
  });
  let answer: unknown;
  try {
    answer = JSON.parse(input.toString("utf8"));
  } catch {
    return outcomes.join();
  }
  const review = readReview(answer, ["fairlead-ca"]);
  if (review.ok) assert.ok(review.value.namespace !== "" && review.value.serviceAccount !== "");
  return `${outcomes.join()} ${review.ok ? "taken" : shape(review.error.message)}`;
}

export const tokenTargets: readonly FuzzTarget[] = [{ name: "service-account-token", maxBytes: 4_096, run: token }];
