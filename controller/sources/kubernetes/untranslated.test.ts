import assert from "node:assert/strict";
import { test } from "node:test";
import { systemClock } from "../../../agent/base/clock.ts";
import { type Logger, silentLogger } from "../../../agent/base/log.ts";
import { seededRandom } from "../../../agent/base/random.ts";
import { createApiClient } from "../../../agent/kubernetes/client.ts";
import { crd, crdPath, FakeKubernetes } from "../../../test/kit/fake-kubernetes.ts";
import { fastLimits, quickly, silentMeter } from "../../../test/kit/mirrors.ts";
import { eventually } from "../../../test/kit/wait.ts";
import type { Ignored } from "../types.ts";
import { Untranslated } from "./untranslated.ts";

const gateways = "/apis/gateway.networking.k8s.io/v1/gateways";

test("[DIS-9] what nothing translates is named while it is there, and said once in the log", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(crdPath, crd("gateway.networking.k8s.io", "gateways"));
  fake.put(gateways, { metadata: { name: "edge", namespace: "shop" } });
  let told: readonly Ignored[] = [];
  const warned: unknown[] = [];
  const log: Logger = { ...silentLogger, warn: (event, fields) => void warned.push([event, fields?.kind]) };
  const api = createApiClient(fake.access(), systemClock, fastLimits);
  const untranslated = new Untranslated(
    { ...quickly },
    {
      api,
      clock: systemClock,
      random: seededRandom(1),
      log,
      meter: silentMeter.of("untranslated"),
      changed: (ignored) => {
        told = ignored;
      },
    },
  );
  untranslated.start();
  try {
    const names = () => told.map(({ object }) => `${object.kind} ${object.namespace}/${object.name}`).sort();
    await eventually(() => assert.deepEqual(names(), ["Gateway shop/edge"]));
    assert.match(told[0]?.note ?? "", /belongs to a gateway/);
    assert.deepEqual(warned, [["kubernetes_kind_untranslated", "Gateway"]]);
    await eventually(() => assert.equal(fake.watching(gateways), 1));
    fake.put(gateways, { metadata: { name: "second", namespace: "shop" } });
    fake.put(gateways, { metadata: { name: "second", namespace: "shop", labels: { a: "b" } } });
    await eventually(() => assert.deepEqual(names(), ["Gateway shop/edge", "Gateway shop/second"]));
    fake.remove(gateways, "shop", "edge");
    await eventually(() => assert.deepEqual(names(), ["Gateway shop/second"]));
    assert.equal(warned.length, 2);
    // The kind itself goes, and comes again.
    fake.remove(crdPath, "", "gateways.gateway.networking.k8s.io");
    await eventually(() => assert.deepEqual(names(), []));
    fake.put(crdPath, crd("gateway.networking.k8s.io", "gateways"));
    await eventually(() => assert.deepEqual(names(), ["Gateway shop/second"]));
  } finally {
    await untranslated.stop();
    api.close();
  }
});
