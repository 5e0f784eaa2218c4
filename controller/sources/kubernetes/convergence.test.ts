import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { crd, crdPath, FakeKubernetes, type Mishap } from "../../../test/kit/fake-kubernetes.ts";
import { type Fed, feed, livePod, liveService, liveSlice, paths } from "../../../test/kit/kubernetes-source.ts";
import { eventually } from "../../../test/kit/wait.ts";
import type { MeshObject } from "../types.ts";

type Step =
  | {
      readonly do: "put" | "remove";
      readonly what: "pod" | "service" | "slice" | "policy";
      readonly name: number;
      readonly value: number;
    }
  /** Bad: a version that we refuse. Lost: removed while nobody listens, and forgotten. */
  | { readonly do: "bad" | "lost"; readonly name: number }
  | { readonly do: "kind"; readonly there: boolean; readonly v1: boolean }
  | {
      readonly do:
        | "compact"
        | "expire pages"
        | "end"
        | "cut"
        | "freeze"
        | "410"
        | "500"
        | "garbage"
        | "half a line"
        | "bookmark"
        | "restore"
        | "resync"
        | "away";
    }
  | { readonly do: "mishaps"; readonly mishap: Mishap; readonly times: number }
  /** Until an ordinary change has come through; or for a moment only, so that what follows meets something half done. */
  | { readonly do: "wait"; readonly isLong: boolean };

const name = fc.nat(5);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("put" as const, "put" as const, "remove" as const),
      what: fc.constantFrom("pod" as const, "service" as const, "slice" as const, "policy" as const),
      name,
      value: fc.nat(3),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("bad" as const, "lost" as const), name }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("kind" as const), there: fc.boolean(), v1: fc.boolean() }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom(
        ..."compact,expire pages,end,cut,freeze,410,500,garbage,half a line,bookmark,restore,resync,away".split(","),
      ) as fc.Arbitrary<"compact">,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("mishaps" as const),
      mishap: fc.constantFrom<Mishap>(
        "reset",
        "cut",
        { status: 429, headers: { "retry-after": "0" } },
        { status: 500 },
        { status: 410 },
        { text: "{}" },
      ),
      times: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("wait" as const), isLong: fc.boolean() }) },
);

const policies = (isV1: boolean): string =>
  isV1 ? paths.authorizations : paths.authorizations.replace("/v1/", "/v1beta1/");
const definition = "authorizationpolicies.security.istio.io";

let turns = 0;

async function act(fake: FakeKubernetes, fed: Fed, step: Step): Promise<void> {
  switch (step.do) {
    case "put":
    case "remove": {
      const { what, name } = step;
      const path = { pod: paths.pods, service: paths.services, slice: paths.slices, policy: paths.authorizations }[
        what
      ];
      if (step.do === "remove") {
        // One store behind both versions, as on a real server.
        for (const at of what === "policy" ? [policies(true), policies(false)] : [path])
          fake.remove(at, "shop", what === "slice" ? `s${name}-abcde` : `${what}-${name}`);
        return;
      }
      if (what === "pod") fake.put(path, livePod(`pod-${name}`, `10.0.${step.value}.${name + 1}`));
      if (what === "service") fake.put(path, liveService(`service-${name}`, `10.96.${step.value}.${name + 1}`));
      if (what === "slice") fake.put(path, liveSlice(`s${name}`, `10.0.${step.value}.${name + 1}`, `pod-${name}`));
      if (what === "policy")
        for (const at of [policies(true), policies(false)])
          fake.put(at, {
            metadata: { name: `policy-${name}`, namespace: "shop" },
            spec: { action: step.value > 1 ? "DENY" : "ALLOW" },
          });
      return;
    }
    case "bad":
      fake.put(paths.services, liveService(`service-${step.name}`, "10.96.9.9", { ports: [{ port: 0 }] }));
      return;
    case "lost":
      fake.freezeWatches();
      fake.remove(paths.pods, "shop", `pod-${step.name}`);
      fake.remove(paths.services, "shop", `service-${step.name}`);
      fake.compact();
      return fake.cutWatches();
    case "kind":
      if (step.there)
        fake.put(crdPath, crd("security.istio.io", "authorizationpolicies", step.v1 ? ["v1", "v1beta1"] : ["v1beta1"]));
      else fake.remove(crdPath, "", definition);
      return;
    case "compact":
      return fake.compact();
    case "expire pages":
      return fake.expirePages();
    case "end":
      return fake.endWatches();
    case "cut":
      return fake.cutWatches();
    case "freeze":
      return fake.freezeWatches();
    case "410":
      return fake.fail(410);
    case "500":
      return fake.fail(500);
    case "garbage":
      return fake.say("{]\n");
    case "half a line":
      fake.say('{"type":"ADD');
      return fake.endWatches();
    case "bookmark":
      return fake.bookmark();
    case "restore":
      fake.restore();
      return fake.cutWatches();
    case "resync":
      void fed.source.resync();
      return;
    case "away": {
      fake.leave();
      await new Promise((resolve) => setTimeout(resolve, 4));
      fake.comeBack();
      return;
    }
    case "mishaps": {
      let left = step.times;
      fake.mishap = () => (left-- > 0 ? step.mishap : undefined);
      return;
    }
    case "wait": {
      fake.put(paths.namespaces, { metadata: { name: "shop", labels: { turn: `${++turns}` } } });
      const isSeen = (): boolean =>
        fed.index.get("Namespace", "", "shop")?.object.metadata.labels.turn === `${turns}` &&
        fake.watching(paths.pods) > 0;
      // It may be lost for now, like everything else.
      for (let tries = 0; tries < (step.isLong ? 25 : 1) && !isSeen(); tries++)
        await new Promise((resolve) => setTimeout(resolve, 2));
      return;
    }
  }
}

/** Objects in force, without those that are told to be bad: which of their versions is in force depends on what was seen. */
function good(fed: Fed): ReadonlyMap<string, MeshObject> {
  const bad = new Set(fed.problems.map((p) => `${p.object?.kind}/${p.object?.namespace}/${p.object?.name}`));
  return new Map([...fed.objects()].filter(([key]) => !bad.has(key)).sort(([a], [b]) => (a < b ? -1 : 1)));
}

test("[DIS-1] whatever changes and whatever fails, what is known ends as a plain listing has it", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
      await using fake = await FakeKubernetes.start();
      fake.put(paths.namespaces, { metadata: { name: "shop" } });
      // Frozen watches are missed after a quarter of a second; pages of two objects.
      await using fed = feed(fake, { pageSize: 2, watchIdleMs: 250 });
      for (const each of steps) await act(fake, fed, each);
      fake.mishap = () => undefined;
      await fed.started;
      // A last change, so that versions from before a restore are behind.
      fake.put(paths.pods, livePod("last", "10.0.9.9"));
      await eventually(async () => {
        await using plain = feed(fake);
        await plain.started;
        assert.deepEqual(good(fed), good(plain));
        assert.deepEqual(
          fed.problems.map((p) => p.object?.name).sort(),
          plain.problems.map((p) => p.object?.name).sort(),
        );
      });
    }),
    { numRuns: 60 },
  );
});
