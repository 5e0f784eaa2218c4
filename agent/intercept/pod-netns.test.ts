// Pods' namespaces out of folders that look like cgroup2, /proc and /run/netns.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { makeHost } from "../../test/kit/fake-host.ts";
import { cgroup2Mount, findKubelet, uidOfFolder } from "./host-groups.ts";
import { parseFibTrie, parseIfInet6 } from "./pod-netns.ts";

const uid = "0b5c7f0e-1111-2222-3333-444455556666";
const other = "0b5c7f0e-1111-2222-3333-444455557777";

test("a pod's namespace is that of its oldest process, by the runtime's own name for it", async (t) => {
  const host = makeHost(t);
  const netns = host.namespace("pod");
  const path = host.name("cni-1", netns);
  host.process(100, 50, netns, { ip: "10.244.1.5" });
  // A program of the pod that made a namespace of its own: younger than the one that the runtime started first.
  host.process(90, 60, host.namespace("made-inside"), { ip: "10.9.9.9" });
  host.group(`kubepods/burstable/pod${uid}/a`, 90);
  host.group(`kubepods/burstable/pod${uid}/b`, 100);
  const found = await host.finder.find([uid], 0);
  assert.deepEqual(found.get(uid), { path, ips: ["10.244.1.5"], sandbox: undefined, holder: undefined });
});

test("[DP-21] a name that is gone is looked for anew, and so is the process that held one without a name", async (t) => {
  const host = makeHost(t);
  const netns = host.namespace("pod");
  host.process(100, 50, netns, { ip: "10.244.1.5" });
  host.group(`kubepods.slice/kubepods-pod${uid.replaceAll("-", "_")}.slice/cri-containerd-1.scope`, 100);
  assert.equal((await host.finder.find([uid], 0)).get(uid)?.path, join(host.places.proc, "100/ns/net"));
  // Its id is another process's now.
  host.process(100, 70, host.namespace("next"), { ip: "10.244.1.6" });
  assert.deepEqual((await host.finder.find([uid], 0)).get(uid)?.ips, ["10.244.1.6"]);
  host.end(100);
  assert.equal((await host.finder.find([uid], 0)).get(uid), undefined);

  const named = host.finder.tell(uid, host.name("cni-2", netns), ["10.244.1.7"]);
  assert.equal((await host.finder.find([uid], 0)).get(uid)?.path, named.path);
  host.unname("cni-2");
  assert.equal((await host.finder.find([uid], 0)).get(uid), undefined);
});

test("a pod whose first process has not entered its namespace yet, or has no address, is found later", async (t) => {
  const host = makeHost(t);
  host.process(100, 50, host.host, { ip: "192.0.2.1" });
  host.group(`kubepods/pod${uid}/a`, 100);
  assert.equal((await host.finder.find([uid], 0)).get(uid), undefined);
  const netns = host.namespace("pod");
  host.process(100, 50, netns);
  assert.equal((await host.finder.find([uid], 1)).get(uid), undefined);
  host.process(100, 50, netns, { ip: "10.244.1.5" });
  assert.deepEqual((await host.finder.find([uid], 2)).get(uid)?.ips, ["10.244.1.5"]);
});

test("groups elsewhere are looked for once a second, those beside known pods at once", async (t) => {
  const host = makeHost(t);
  const pod = (id: string, pid: number, where: string): void => {
    host.process(pid, pid, host.namespace(id), { ip: `10.244.1.${pid % 250}` });
    host.group(`${where}/pod${id}/a`, pid);
  };
  pod(uid, 100, "kubepods");
  await host.finder.find([uid, other], 1_000);
  pod(other, 101, "kubepods/besteffort");
  assert.equal((await host.finder.find([uid, other], 1_500)).has(other), false);
  assert.equal((await host.finder.find([uid, other], 2_000)).has(other), true);
  const third = other.replace("7777", "8888");
  pod(third, 102, "kubepods");
  assert.equal((await host.finder.find([uid, other, third], 2_001)).has(third), true);
});

test("what keeps all pods from being found is said", async (t) => {
  const host = makeHost(t);
  host.group(`kubepods/pod${uid}/a`, 0);
  await host.finder.find([uid], 0);
  assert.match(host.finder.problem ?? "", /hostPID: true/);
});

test("[DP-11] a pod whose first process is a machine of its own is known as such", async (t) => {
  const host = makeHost(t);
  host.process(100, 50, host.namespace("pod"), { ip: "10.244.1.5", words: ["runsc-sandbox", "--root"] });
  host.group(`kubepods/pod${uid}/a`, 100);
  assert.equal((await host.finder.find([uid], 0)).get(uid)?.sandbox, "runsc-sandbox");
});

test("[DP-10] the kubelet's group is that of the process, not of one in a pod that has its name, and never one with pods in it", async (t) => {
  const host = makeHost(t);
  assert.equal(await findKubelet(host.places.proc, host.places.cgroup), "no process is a kubelet");
  host.process(200, 5, host.namespace("pod"), { words: ["/kubelet"] });
  host.group(`kubepods/pod${uid}/a`, 200);
  assert.match(String(await findKubelet(host.places.proc, host.places.cgroup)), /in no group/);
  host.process(201, 4, host.host, { words: ["/usr/bin/kubelet", "--config=x"] });
  host.group("system.slice/kubelet.service", 201);
  const found = await findKubelet(host.places.proc, host.places.cgroup);
  assert.equal(
    typeof found === "string" ? found : found.folder,
    join(host.places.cgroup, "system.slice/kubelet.service"),
  );
  host.group("", 201);
  host.group("system.slice/kubelet.service");
  assert.match(String(await findKubelet(host.places.proc, host.places.cgroup)), /holds pods too/);
});

test("cgroup2 is found alone and beside v1 hierarchies", () => {
  assert.equal(cgroup2Mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), "/sys/fs/cgroup");
  const hybrid =
    "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
  assert.equal(cgroup2Mount(hybrid), "/sys/fs/cgroup/unified");
  assert.equal(cgroup2Mount("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"), undefined);
});

test("names of pods' folders, of both drivers and of static pods", () => {
  assert.equal(uidOfFolder(`pod${uid}`), uid);
  assert.equal(uidOfFolder(`kubepods-burstable-pod${uid.replaceAll("-", "_")}.slice`), uid);
  assert.equal(uidOfFolder("pod3f1e3cbf3f1e3cbf3f1e3cbf3f1e3cbf"), "3f1e3cbf3f1e3cbf3f1e3cbf3f1e3cbf");
  for (const name of ["kubepods", "kubepods-burstable.slice", "podman.service", `pod${uid}x`])
    assert.equal(uidOfFolder(name), undefined, name);
});

test("addresses of a namespace: the kernel's own words, and any others", () => {
  const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.244.1.0/24 2 0 2
        |-- 10.244.1.0
           /24 link UNICAST
        |-- 10.244.1.5
           /32 host LOCAL
        |-- 10.244.1.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
`;
  assert.deepEqual(parseFibTrie(`${trie}Local:\n${trie}`), ["10.244.1.5"]);
  const six =
    "fd000000000000000000000000000005 02 40 00 80     eth0\nfe80000000000000000000000000aaaa 02 40 20 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n";
  assert.deepEqual(parseIfInet6(six), ["fd00::5"]);
  fc.assert(
    fc.property(fc.string(), (text) => {
      assert.ok(parseFibTrie(text).every((ip) => ip.includes(".")));
      assert.ok(parseIfInet6(text).every((ip) => ip.length > 1));
    }),
  );
});
