// The lab by itself, without mesh: plumbing, hosts, exec, probes, restart policies, live manifests, bad input.
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { labOptions, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, pod, serverPod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { Capture, flowsWith } from "../lab/capture.ts";
import { spawnInPod } from "../lab/client.ts";
import { ended } from "../lab/command.ts";
import type { PodStatus } from "../lab/lab-options.ts";

const plain = { agents: false };

test(
  "[INT-5] pods on one node and on two reach each other over IPv4 and IPv6, and see each other's real addresses",
  labOptions,
  async () => {
    const files = {
      "all.yaml": manifest(
        namespace("shop", false),
        serverPod("shop/web", { node: "node1" }),
        clientPod("shop/near", { node: "node1" }),
        clientPod("shop/far", { node: "node2" }),
        service("shop/web", "web", { 80: 7000 }, { clusterIPs: ["10.96.3.3", "fd00:96::33"] }),
        service("shop/direct", "web", { 7000: 7000 }, { clusterIP: "None" }),
      ),
    };
    await withLab(files, plain, async (lab) => {
      const web = await lab.pod("shop/web");
      for (const from of ["shop/near", "shop/far"]) {
        for (const ip of web.ips) {
          const done = await lab.traffic(from, ["short", "--host", ip, "--count", "40"]);
          assert.deepEqual([done.ok, done.failed], [40, 0], `${from} -> ${ip}: ${JSON.stringify(done)}`);
        }
        for (const [host, port] of [
          ["web", "80"],
          ["web.shop.svc.cluster.local", "80"],
          ["10.96.3.3", "80"],
          ["fd00:96::33", "80"],
          ["direct.shop", "7000"],
        ]) {
          const done = await lab.traffic(from, [
            "short",
            "--host",
            String(host),
            "--port",
            String(port),
            "--count",
            "10",
          ]);
          assert.deepEqual([done.ok, done.failed], [10, 0], `${from} -> ${host}: ${JSON.stringify(done)}`);
        }
      }
      const hosts = await lab.run("shop/far", ["cat", "/etc/hosts"]);
      assert.match(hosts.stdout, /^10\.96\.3\.3 web\.shop\.svc\.cluster\.local web\.shop\.svc web\.shop web$/m);
      assert.match(hosts.stdout, /^10\.244\.1\.10 direct\.shop\.svc/m);
      const unknown = await lab.run("shop/far", ["getent", "hosts", "nowhere.example"]);
      assert.notEqual(unknown.code, 0);
    });
  },
);

test(
  "[DP-33] the capture between nodes shows a marker that unmeshed pods send, with the pods' own addresses",
  labOptions,
  async () => {
    const files = {
      "all.yaml": manifest(
        namespace("shop", false),
        serverPod("shop/web", { node: "node1" }),
        clientPod("shop/far", { node: "node2" }),
      ),
    };
    await withLab(files, plain, async (lab) => {
      const web = await lab.pod("shop/web");
      const far = await lab.pod("shop/far");
      const capture = await Capture.start(lab.paths.routerNetns, "node1", join(lab.paths.dir, "a.pcap"));
      for (const ip of web.ips) {
        const sent = await lab.run("shop/far", [
          "python3",
          "-c",
          `import socket;s=socket.create_connection(("${ip}",7002));s.sendall(b"MARKER-in-the-clear");s.shutdown(1);print(s.recv(99))`,
        ]);
        assert.match(sent.stdout, /MARKER/);
      }
      const packets = await capture.stop();
      const seen = flowsWith(packets, "MARKER-in-the-clear").map((f) => f.replace(/\|\d+/g, ""));
      const expected = web.ips.flatMap((ip, i) => [`${far.ips[i]}>${ip}`, `${ip}>${far.ips[i]}`]);
      assert.deepEqual(seen.sort(), expected.sort());
    });
  },
);

test(
  "[TST-3] exec passes exit code, standard input, environment and signals, inside the pod's own namespaces",
  labOptions,
  async () => {
    const container = {
      env: [
        { name: "GREETING", value: "hello" },
        { name: "ME", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
        { name: "BOTH", value: "$(GREETING) $(ME)" },
      ],
    };
    const files = {
      "all.yaml": manifest(
        namespace("shop", false),
        clientPod("shop/a", { node: "node1", container }),
        clientPod("shop/b", { node: "node1" }),
      ),
    };
    await withLab(files, plain, async (lab) => {
      assert.equal((await lab.run("shop/a", ["sh", "-c", "exit 7"])).code, 7);
      assert.equal((await lab.run("shop/a", ["sh", "-c", "echo $BOTH"])).stdout, "hello 10.244.1.10\n");
      assert.equal((await lab.run("shop/a", ["no-such-program"])).code, 127);
      await lab.run("shop/a", ["sh", "-c", "echo private > /tmp/file"]);
      assert.equal((await lab.run("shop/a", ["cat", "/tmp/file"])).stdout, "private\n");
      assert.notEqual((await lab.run("shop/b", ["cat", "/tmp/file"])).code, 0);
      const caps = await lab.run("shop/a", ["sh", "-c", "grep CapBnd /proc/self/status"]);
      assert.match(caps.stdout, /00000000a80425fb/, "a pod has the capabilities that containers have, no more");
      const child = await spawnInPod(lab.name, "shop/a", ["cat"], { stdio: ["pipe", "pipe", "inherit"] });
      assert.ok(child.ok);
      child.value.stdin?.end("through\n");
      assert.equal(String(await child.value.stdout?.toArray()), "through\n");
      const sleeper = await spawnInPod(lab.name, "shop/a", ["sleep", "100"], { stdio: "ignore" });
      assert.ok(sleeper.ok);
      await new Promise((resolve) => setTimeout(resolve, 300));
      sleeper.value.kill("SIGTERM");
      assert.equal(await ended(sleeper.value), 143);
      const absent = await spawnInPod(lab.name, "shop/none", ["true"]);
      assert.ok(!absent.ok && /no pod shop\/none.*shop\/a, shop\/b/.test(absent.error));
    });
  },
);

test(
  "[INT-2] probes: readiness by HTTP, TCP and exec decides endpoints; startup holds the others back; liveness restarts",
  labOptions,
  async () => {
    const quick = { periodSeconds: 1, failureThreshold: 1 };
    const http =
      "import http.server,os\nclass H(http.server.BaseHTTPRequestHandler):\n def do_GET(s): s.send_response(200 if os.path.exists('/tmp'+s.path) else 503); s.end_headers()\n def log_message(s,*a): pass\nhttp.server.HTTPServer(('0.0.0.0',8080),H).serve_forever()";
    const files = {
      "all.yaml": manifest(
        namespace("shop", false),
        pod("shop/http", ["python3", "-c", http], {
          container: {
            ports: [{ name: "web", containerPort: 8080 }],
            readinessProbe: { httpGet: { path: "/ready", port: "web" }, ...quick },
          },
        }),
        pod("shop/exec", ["sleep", "infinity"], {
          container: { readinessProbe: { exec: { command: ["test", "-e", "/tmp/ready"] }, ...quick } },
        }),
        pod("shop/tcp", ["sh", "-c", "sleep 1; exec python3 -m http.server 8080"], {
          container: {
            startupProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1, failureThreshold: 20 },
            livenessProbe: { exec: { command: ["test", "!", "-e", "/tmp/sick"] }, ...quick },
          },
        }),
        service("shop/http", "http", { 80: 8080 }, { clusterIP: "10.96.3.4" }),
      ),
    };
    await withLab(files, { ...plain, waitReadyMs: 0 }, async (lab) => {
      const endpoints = async (): Promise<number> => (await lab.status()).services[0]?.endpoints.length ?? -1;
      await waitFor("running", async () => (await lab.status()).pods.every((p) => p.phase === "Running"));
      assert.equal((await lab.pod("shop/http")).ready, false);
      assert.equal(await endpoints(), 0);
      await lab.run("shop/http", ["touch", "/tmp/ready"]);
      await lab.ready("shop/http");
      await waitFor("endpoints", async () => (await endpoints()) === 2);
      await lab.run("shop/http", ["rm", "/tmp/ready"]);
      await waitFor("not ready", async () => !(await lab.pod("shop/http")).ready);
      await lab.run("shop/exec", ["touch", "/tmp/ready"]);
      await lab.ready("shop/exec");
      await lab.ready("shop/tcp");
      await lab.run("shop/tcp", ["touch", "/tmp/sick"]);
      await waitFor("restart", async () => (await lab.pod("shop/tcp")).restarts > 0);
      await lab.run("shop/tcp", ["rm", "/tmp/sick"]);
      await lab.ready("shop/tcp");
    });
  },
);

test(
  "[DIS-9] restart policies, init containers in order, and a clear status when a command dies",
  labOptions,
  async () => {
    const files = {
      "all.yaml": manifest(
        namespace("shop", false),
        pod("shop/always", ["sh", "-c", "echo went wrong >&2; exit 3"]),
        pod("shop/onfailure", ["sh", "-c", "test -e /tmp/once && exit 0; touch /tmp/once; exit 1"], {
          spec: { restartPolicy: "OnFailure" },
        }),
        pod("shop/never", ["sh", "-c", "echo no >&2; exit 4"], { spec: { restartPolicy: "Never" } }),
        pod("shop/absent", ["/no/such/program"], { spec: { restartPolicy: "Never" } }),
        pod("shop/init", ["sh", "-c", "cat /tmp/order; sleep infinity"], {
          spec: {
            initContainers: [
              { name: "one", command: ["sh", "-c", "echo 1 >> /tmp/order"] },
              { name: "two", command: ["sh", "-c", "echo 2 >> /tmp/order"] },
            ],
          },
        }),
        pod("shop/badinit", ["true"], {
          spec: { restartPolicy: "Never", initContainers: [{ name: "one", command: ["sh", "-c", "exit 9"] }] },
        }),
      ),
    };
    await withLab(files, plain, async (lab) => {
      const always = await waitFor("two restarts", async () =>
        ((p) => p.restarts >= 2 && p.reason !== "" && p)(await lab.pod("shop/always")),
      );
      assert.match(`${always.reason} ${always.message}`, /CrashLoopBackOff.*exit code 3; last output: .*went wrong/);
      assert.equal(
        (await waitFor("done", async () => ((p) => p.phase === "Succeeded" && p)(await lab.pod("shop/onfailure"))))
          .restarts,
        1,
      );
      const failed = (name: string): Promise<PodStatus> =>
        waitFor(`${name} has failed`, async () => ((p) => p.phase === "Failed" && p)(await lab.pod(name)));
      const never = await failed("shop/never");
      assert.equal(never.restarts, 0);
      assert.match(never.message, /exit code 4; last output: no/);
      assert.match((await failed("shop/absent")).message, /no\/such\/program/);
      await lab.ready("shop/init");
      assert.equal((await lab.run("shop/init", ["cat", "/tmp/order"])).stdout, "1\n2\n");
      assert.match((await failed("shop/badinit")).message, /init container one: exit code 9/);
    });
  },
);

test(
  "[DIS-2] manifests are taken live: added, relabelled without restart, replaced, removed; apply and delete leave the folder alone",
  labOptions,
  async () => {
    await withLab({ "a.yaml": manifest(namespace("shop", false), clientPod("shop/a")) }, plain, async (lab) => {
      const before = await lab.pod("shop/a");
      lab.write("sub/b.yaml", manifest(clientPod("shop/b")));
      const first = await lab.ready("shop/b");
      lab.write(
        "a.yaml",
        manifest(
          namespace("shop", false),
          clientPod("shop/a", { labels: { colour: "blue" } }),
          service("shop/blue", "a", { 80: 80 }, { selector: { colour: "blue" }, clusterIP: "10.96.3.5" }),
        ),
      );
      await waitFor("service of the new label", async () => (await lab.status()).services[0]?.endpoints.length === 2);
      assert.equal((await lab.pod("shop/a")).pauseProcess, before.pauseProcess, "a new label does not restart the pod");
      lab.write("sub/b.yaml", manifest(pod("shop/b", ["sleep", "1000"])));
      await waitFor("replaced", async () =>
        (await lab.status()).pods.some((p) => p.name === "b" && p.ready && p.pauseProcess !== first.pauseProcess),
      );
      await lab.apply(manifest(clientPod("shop/c")));
      await lab.ready("shop/c");
      await lab.ask("/v1/delete", { kind: "Pod", namespace: "shop", name: "a" });
      await waitFor("a gone", async () => !(await lab.status()).pods.some((p) => p.name === "a"));
      rmSync(join(lab.manifests, "sub/b.yaml"));
      await waitFor("b gone", async () => !(await lab.status()).pods.some((p) => p.name === "b"));
      await assert.rejects(
        lab.ask("/v1/delete", { kind: "Pod", namespace: "shop", name: "nobody" }),
        /no Pod shop\/nobody/,
      );
    });
  },
);

test("[DIS-9] bad manifests are named with file, object, field and fix, and the rest goes on", labOptions, async () => {
  const files = {
    "broken.yaml": "kind: Pod\n  bad: [indent",
    "bad.yaml": manifest(
      namespace("shop", false),
      {
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "image-only", namespace: "shop" },
        spec: { containers: [{ name: "c", image: "nginx" }] },
      },
      clientPod("shop/nowhere", { node: "node9x" }),
      clientPod("missing/lost"),
      pod("shop/port", ["true"], { container: { readinessProbe: { tcpSocket: { port: 70_000 } } } }),
    ),
    "good.yaml": manifest(clientPod("shop/good")),
  };
  await withLab(files, plain, async (lab) => {
    const { problems, pods } = await lab.status();
    assert.deepEqual(
      pods.map((p) => p.name),
      ["good"],
    );
    assert.ok(pods[0]?.ready);
    const lines = problems.map((p) => `${p.file}: ${p.object}: ${p.field}: ${p.message}; ${p.fix}`).sort();
    for (const expected of [
      /^broken\.yaml: : : cannot be parsed: .*correct the YAML/,
      /^bad\.yaml: Pod shop\/image-only: spec\.containers\[0\]\.command: missing.*give a command/,
      /spec\.nodeName: node9x is no node.*node1, node2/,
      /Pod missing\/lost: metadata\.namespace: namespace missing does not exist; add a manifest/,
      /readinessProbe\.tcpSocket\.port: 70000 is no port/,
    ]) {
      assert.ok(
        lines.some((l) => expected.test(l)),
        `${expected} in\n${lines.join("\n")}`,
      );
    }
    lab.write("broken.yaml", manifest(clientPod("shop/mended")));
    await lab.ready("shop/mended");
  });
});
