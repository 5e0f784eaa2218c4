// What ten thousand workloads cost in memory: the records themselves, without what the process around them keeps.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { workload } from "../../test/kit/mesh.ts";
import { decodeResource, encodeResource } from "../api/resources.ts";
import { MeshState } from "./mesh-state.ts";

/** Goal of the whole agent (DP-34): 30 MB; the rest of it is for buffers and for what is not collected yet. */
const mostMb = 10;

test("[DP-34] 10,000 workloads are known in at most 10 MB, and what they have in common is there once", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const usedMb = (): number => {
    collect();
    return process.memoryUsage().heapUsed / 1e6;
  };
  const state = new MeshState();
  const before = usedMb();
  for (let i = 0; i < 10_000; i++) {
    const labels = { app: `app-${i % 500}`, "app.kubernetes.io/part-of": `team-${i % 100}` };
    const value = workload(`team-${i % 100}`, `app-${i}`, `10.200.${i >> 8}.${i & 255}`, { labels });
    // Through bytes, as from the controller: decoding makes every text anew.
    const decoded = decodeResource("Workload", encodeResource({ kind: "Workload", value }));
    assert.ok(decoded.ok);
    state.apply({ changed: [decoded.value], removed: [] });
  }
  const grownMb = usedMb() - before;
  assert.ok(grownMb <= mostMb, `${grownMb.toFixed(1)} MB`);
  const [a, b] = ["app-7", "app-507"].map((name) => state.workloads.byUid(`cluster.local/team-7/${name}` as never));
  assert.deepEqual(a?.labels, { app: "app-7", "app.kubernetes.io/part-of": "team-7" });
  assert.equal(a?.labels, b?.labels);
});
