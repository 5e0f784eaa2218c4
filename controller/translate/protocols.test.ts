import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultSettings } from "../../agent/api/settings.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { parseManifests } from "../sources/parse.ts";
import { translate } from "./translate.ts";

/** Ports of a service as agents get them, and what its condition says. */
function ports(spec: string, annotations = "") {
  const text = `apiVersion: v1
kind: Service
metadata: {name: s, namespace: default${annotations === "" ? "" : `, annotations: {fairlead.dev/protocols: "${annotations}"}`}}
spec: {clusterIP: 10.96.0.9, ports: ${spec}}`;
  const index = new ClusterIndex();
  for (const { object, origin } of parseManifests(text, "f.yaml").objects) index.apply(object, origin);
  const done = translate(index, {
    settings: defaultSettings,
    rootNamespace: "istio-system",
    allocations: new Map(),
    unenrolled: new Map(),
  });
  const of = done.resources.flatMap((r) => (r.kind === "Service" ? r.value.ports : []));
  return {
    protocols: of.map((p) => `${p.port} ${p.protocol}${p.serverFirst ? " server-first" : ""}`),
    condition: done.conditions.find((c) => c.object.kind === "Service"),
  };
}

test("[INT-8] a port's protocol is what the annotation says, else appProtocol, else the start of its name", () => {
  assert.deepEqual(ports("[{port: 80, name: http-web}, {port: 81, name: web}, {port: 82, name: mysql}]").protocols, [
    "80 http",
    "81 ",
    "82 mysql server-first",
  ]);
  assert.deepEqual(ports("[{port: 80, name: http-web, appProtocol: kubernetes.io/h2c}]").protocols, ["80 http2"]);
  assert.deepEqual(
    ports("[{port: 80, name: a, appProtocol: https}, {port: 81, name: b}]", "80=mysql,b=grpc").protocols,
    ["80 mysql server-first", "81 grpc"],
  );
  // Undeclared, the number may tell that the server speaks first; declared, it does not.
  assert.deepEqual(ports("[{port: 3306}]").protocols, ["3306  server-first"]);
  assert.deepEqual(ports("[{port: 3306}]", "3306 = TLS").protocols, ["3306 tls"]);
});

test("[INT-8] [DIS-9] what the annotation says amiss is told with field and fix, and the rest of it holds", () => {
  for (const wrong of ["81=http", "80=smoke", "80", "80=http=2", "other=http"]) {
    const { protocols, condition } = ports("[{port: 80, name: web}, {port: 90}]", `${wrong},90=redis`);
    assert.deepEqual(protocols, ["80 ", "90 redis"], wrong);
    assert.equal(condition?.accepted, true);
    assert.ok(condition?.message.startsWith(`"${wrong}" declares nothing`), condition?.message);
    assert.equal(condition?.field, "metadata.annotations[fairlead.dev/protocols]");
    assert.notEqual(condition?.fix, "");
  }
});
