import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { groupPath, peerProcess, podOfGroup, podOfPeer } from "./peer-pod.ts";

const uid = (n: number): string => `0000000${n}-1111-2222-3333-444444444444`;
const pod = (name: string, n: number, cgroup?: string) => ({ name, host: { uid: uid(n), cgroup } });
const web = pod("shop/web", 1);
const db = pod("shop/db", 2);
const lab = pod("shop/lab", 3, "/sys/fs/cgroup/unified/lab/n1/pods/shop.lab");
const pods = [web, db, lab];
const places = { mount: "/sys/fs/cgroup/unified", root: "/sys/fs/cgroup/unified/n1" };
const nameOf = (path: string): string | undefined => podOfGroup(path, places, pods)?.name;

test("[IDN-12] a process belongs to the pod whose control group it is in, of either cgroup driver", () => {
  assert.equal(nameOf(`/n1/kubepods/burstable/pod${uid(1)}/0123abc`), "shop/web");
  assert.equal(
    nameOf(`/kubepods.slice/kubepods-pod${uid(2).replaceAll("-", "_")}.slice/cri-containerd-0123.scope`),
    "shop/db",
  );
  assert.equal(nameOf(`/../../pod${uid(1)}/0123abc`), "shop/web", "as a container sees it that has a view of its own");
  assert.equal(nameOf("/lab/n1/pods/shop.lab/app"), "shop/lab");
  assert.equal(nameOf("/lab/n1/pods/shop.lab"), "shop/lab");
});

test("[IDN-12] whatever else a process is in, it is nobody's", () => {
  for (const path of [
    "/",
    "/system.slice/sshd.service",
    "/n1/kubelet",
    `/n1/kubepods/pod${uid(9)}/c`,
    "/lab/n1/pods/shop.lab2/app",
    "/lab/n1/pods",
    // The uid of a pod that is known by its folder, in a folder that is not it.
    `/n1/kubepods/pod${uid(3)}/c`,
  ])
    assert.equal(nameOf(path), undefined, path);
  assert.equal(podOfGroup("/anything", places, [pod("root", 1, places.mount), pod("slash", 1, "/")]), undefined);
});

test("[IDN-12] what a pod makes inside its own group does not make it another", () => {
  const segment = fc.stringMatching(/^[a-z0-9._-]{1,20}$/);
  const forged = fc.oneof(segment, fc.constantFrom(`pod${uid(2)}`, "kubepods", "lab", "n1", "pods", "shop.lab"));
  fc.assert(
    fc.property(fc.array(forged, { maxLength: 6 }), (inner) => {
      assert.equal(nameOf(["/n1/kubepods", `pod${uid(1)}`, ...inner].join("/")), "shop/web");
      assert.equal(nameOf(["/lab/n1/pods/shop.lab", ...inner].join("/")), "shop/lab");
    }),
  );
});

test("the line of cgroup v2 is found among those of v1", () => {
  assert.equal(groupPath("12:cpu:/a\n1:name=systemd:/b\n0::/n1/c\n"), "/n1/c");
  assert.equal(groupPath("12:cpu:/a\n"), undefined);
  assert.equal(groupPath(""), undefined);
});

test("[IDN-12] the process that connected must be the one that is looked at, before and after", async () => {
  const proc = mkdtempSync(join(tmpdir(), "fairlead-proc-"));
  try {
    const put = (pid: number, started: number, group: string): void => {
      mkdirSync(join(proc, `${pid}`), { recursive: true });
      const rest = Array.from({ length: 30 }, (_, i) => (i === 18 ? started : i)).join(" ");
      writeFileSync(join(proc, `${pid}/stat`), `${pid} (a b) c) S ${rest}`);
      writeFileSync(join(proc, `${pid}/cgroup`), `0::${group}\n`);
    };
    const info = (pid: number): void => {
      mkdirSync(join(proc, "self/fdinfo"), { recursive: true });
      writeFileSync(join(proc, "self/fdinfo/7"), `pos:\t0\nflags:\t02000002\nPid:\t${pid}\nNSpid:\t${pid}\n`);
    };
    const all = { proc, ...places };
    put(40, 1000, `/n1/kubepods/pod${uid(1)}/c`);
    info(40);
    const withFd = await peerProcess(proc, 40, 7);
    const without = await peerProcess(proc, 40, undefined);
    assert.ok(withFd.ok && without.ok);
    assert.equal((await podOfPeer(all, withFd.value, pods))?.name, "shop/web");
    // It ended, and its id is another's now, in another pod.
    put(40, 2000, `/n1/kubepods/pod${uid(2)}/c`);
    assert.equal(await podOfPeer(all, without.value, pods), undefined);
    info(-1);
    assert.equal(await podOfPeer(all, withFd.value, pods), undefined);
    assert.deepEqual((await peerProcess(proc, 40, 7)).ok, false);
    assert.match(JSON.stringify(await peerProcess(proc, 0, undefined)), /agent needs the host's/);
    assert.match(JSON.stringify(await peerProcess(proc, 41, undefined)), /process 41 has ended/);
  } finally {
    rmSync(proc, { recursive: true, force: true });
  }
});
