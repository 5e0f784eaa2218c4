import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { typeUrlOf } from "../../agent/api/resources.ts";
import type { NodeView } from "./reach.ts";
import { joinViews, type NodeSummary, notEnrolledElsewhere, type Offered, readSummary, summarize } from "./replicas.ts";

const authorization = typeUrlOf("Authorization");
const offering = (versions: Readonly<Record<string, string>>): Offered => ({
  names: (typeUrl) => (typeUrl === authorization ? Object.keys(versions) : []),
  versionOf: (typeUrl, name) => (typeUrl === authorization ? versions[name] : undefined),
});
const names = ["a", "b", "c"];
interface Told {
  readonly isCurrent: boolean;
  readonly refusal: string | undefined;
  readonly unable: string | undefined;
}
const anyTold: fc.Arbitrary<Told> = fc
  .record({
    isCurrent: fc.boolean(),
    refusal: fc.option(fc.string(), { nil: undefined }),
    unable: fc.option(fc.string(), { nil: undefined }),
  })
  .map((told) => (told.refusal === undefined ? told : { ...told, isCurrent: false }));
const viewOf = (node: string, told: Readonly<Record<string, Told>>): NodeView => ({
  node,
  stateOf: (typeUrl, name) => {
    const { isCurrent, refusal } = (typeUrl === authorization && told[name]) || {
      isCurrent: false,
      refusal: undefined,
    };
    return { isCurrent, refusal };
  },
  notEnforced: (_, name) => told[name]?.unable,
});

test("[DIS-8] what a replica writes down of its agents another reads as it was", () => {
  const versions = { a: "1", b: "2", c: "3" };
  const lacking = new Map([["n1", new Map([["shop/web", "no cgroup"]])]]);
  fc.assert(
    fc.property(fc.record({ a: anyTold, b: anyTold, c: anyTold }), (told) => {
      const view = viewOf("n1", told);
      const text = JSON.stringify(summarize(offering(versions), new Map([["n1", view]]), () => 5, lacking));
      const summary = readSummary(JSON.parse(text));
      assert.ok(summary !== undefined);
      assert.deepEqual(notEnrolledElsewhere(new Map(), [summary]), lacking);
      assert.equal(notEnrolledElsewhere(new Set(["n1"]), [summary]).size, 0, "we speak for our own");
      const read = joinViews(new Map(), [summary], offering(versions)).get("n1");
      for (const name of names) {
        assert.deepEqual(read?.stateOf(authorization, name), view.stateOf(authorization, name));
        assert.equal(read?.notEnforced(authorization, name), view.notEnforced(authorization, name));
      }
    }),
  );
});

test("[DIS-8] only acknowledgements of the version that we offer count", () => {
  const fine = { isCurrent: true, refusal: undefined, unable: undefined };
  const summary = summarize(
    offering({ a: "1", b: "2" }),
    new Map([["n1", viewOf("n1", { a: fine, b: fine })]]),
    () => 0,
    new Map(),
  );
  const view = joinViews(new Map(), [summary], offering({ a: "1", b: "9", c: "3" })).get("n1");
  assert.deepEqual(
    names.map((name) => view?.stateOf(authorization, name).isCurrent),
    [true, false, false],
  );
});

test("[DIS-8] a node is spoken for by ourselves, else by the replica that it connected to last", () => {
  const node = (connectedAtMs: number, behind: readonly number[]): NodeSummary => ({
    node: "n1",
    connectedAtMs,
    behind,
    refused: [],
    notEnforced: [],
  });
  const of = (summary: NodeSummary) => ({ resources: [["Authorization/a", "1"]] as const, nodes: [summary] });
  const [old, young] = [of(node(1, [0])), of(node(2, []))];
  for (const others of [
    [old, young],
    [young, old],
  ]) {
    const joined = joinViews(new Map(), others, offering({ a: "1" }));
    assert.equal(joined.get("n1")?.stateOf(authorization, "a").isCurrent, true);
    const own = viewOf("n1", {});
    assert.equal(joinViews(new Map([["n1", own]]), others, offering({ a: "1" })).get("n1"), own);
  }
});

test("[DIS-8] whatever somebody writes there is read as nothing, or as a summary that can be asked", () => {
  const nodes = fc.array(
    fc.record({
      node: fc.string(),
      connectedAtMs: fc.double(),
      behind: fc.array(fc.integer()),
      refused: fc.anything(),
      notEnforced: fc.constant([]),
      notEnrolled: fc.oneof(fc.anything(), fc.array(fc.tuple(fc.string(), fc.string()))),
    }),
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.anything(),
        fc.record({ resources: fc.anything(), nodes }),
        fc.record({ resources: fc.constant([]), nodes }),
      ),
      (value) => {
        const summary = readSummary(value);
        if (summary === undefined) return;
        for (const view of joinViews(new Map(), [summary], offering({ a: "1" })).values())
          assert.equal(typeof view.stateOf(authorization, "a").isCurrent, "boolean");
        for (const pods of notEnrolledElsewhere(new Map(), [summary]).values())
          for (const [pod, reason] of pods) assert.deepEqual([typeof pod, typeof reason], ["string", "string"]);
      },
    ),
  );
});
