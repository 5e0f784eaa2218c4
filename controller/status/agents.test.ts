// What agents report is theirs to say, and holds for as long as they are here.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ReportRequest } from "../../agent/api/mesh.gen.ts";
import type { NodeName } from "../../agent/api/names.ts";
import { AgentReports } from "./agents.ts";

const [n1, n2] = ["n1", "n2"] as NodeName[] as [NodeName, NodeName];
const reportOf = (...pods: readonly string[]) =>
  ReportRequest.fromPartial({ pods: pods.map((pod) => ({ pod, enrolled: false, reason: "no certificate yet" })) });

test("[SEC-2] [IDN-3] a node takes its own pods out of the mesh and nobody else's", () => {
  const places = new Map([
    ["shop/web", "n1"],
    ["bank/db", "n2"],
  ]);
  const reports = new AgentReports();
  const unenrolled = () => [...reports.unenrolled((namespace, pod) => places.get(`${namespace}/${pod}`)).keys()];
  reports.put(n1, reportOf("shop/web", "bank/db", "shop/unknown", "nonsense", "/", "a/b/c"), 0);
  assert.deepEqual(unenrolled(), ["shop/web"]);
  reports.put(n2, reportOf("bank/db"), 0);
  assert.deepEqual(unenrolled().sort(), ["bank/db", "shop/web"]);
  places.set("shop/web", "n2");
  assert.deepEqual(unenrolled(), ["bank/db"], "it is another's by now");
  reports.forget(n2);
  assert.deepEqual(unenrolled(), []);
});
