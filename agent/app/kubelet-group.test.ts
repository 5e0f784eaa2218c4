import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { makeHost } from "../../test/kit/fake-host.ts";
import { silentListener, startFakeNative } from "../../test/kit/fake-native.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { readConfig } from "../config.ts";
import { onHost } from "./host.ts";
import { followKubelet } from "./kubelet-group.ts";

test("[DP-10] the kubelet's group is found at the start, and again where a restart gave it another one", async (t) => {
  const host = makeHost(t);
  const read = readConfig(
    { FAIRLEAD_PODS: "kubernetes", FAIRLEAD_CGROUP: host.places.cgroup, FAIRLEAD_PROC_DIR: host.places.proc },
    "/",
  );
  assert.ok(read.ok);
  const without = await onHost(read.value, silentLogger);
  assert.equal(without.ok && without.value.kubeletCgroup, "");
  const kubelet = (pid: number, group: string): void => {
    host.process(pid, pid, host.host, { words: ["/usr/bin/kubelet"] });
    host.group(group, pid);
  };
  kubelet(200, "kubelet.service");
  const config = await onHost(read.value, silentLogger);
  assert.ok(config.ok);
  assert.equal(config.value.kubeletCgroup, join(host.places.cgroup, "kubelet.service"));

  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  const clock = createFakeClock();
  const stop = followKubelet({ config: config.value, clock, log: silentLogger, native: native.channel });
  t.after(stop);
  const told = () => native.calls.filter((call) => call.method === "kubelet.set").map((call) => call.params.cgroup);
  await clock.advanceAsync(3_000);
  host.end(200);
  rmSync(join(host.places.cgroup, "kubelet.service"), { recursive: true });
  await clock.advanceAsync(3_000);
  kubelet(201, "again/kubelet.service");
  await waitFor("told", async () => {
    await clock.advanceAsync(1_000);
    return told().length > 0;
  });
  assert.deepEqual(told(), [join(host.places.cgroup, "again/kubelet.service")]);
});
