// The API server that tests get: real, on its own, several at once, and gone afterwards whatever happened.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { downCluster, skipApi, testClusterName, withApiServer } from "../cluster/kit.ts";
import { ApiError, type KubeApi, type KubeObject } from "../cluster/kubernetes/api.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { ranges } from "../cluster/machine/ranges.ts";
import { type ClusterPaths, cacheFolder, clusterPaths } from "../cluster/paths.ts";
import { clusterStatus } from "../cluster/status.ts";
import { leftOf } from "../cluster/teardown.ts";
import { up } from "../cluster/up.ts";
import { waitFor } from "../kit/wait.ts";
import { finish } from "../lab/command.ts";

/** A first build takes as long as it takes. */
const options = { skip: skipApi, timeout: 3_600_000 } as const;
const apiOnly = { nodes: 0, apiOnly: true, apiServerFlags: [] } as const;
const quiet = (): void => undefined;
const MAIN = fileURLToPath(new URL("../cluster/main.ts", import.meta.url));

const configMap = (name: string, data: Readonly<Record<string, string>>): KubeObject => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace: "default" },
  data,
});

const crd: KubeObject = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "spans.test.fairlead.dev" },
  spec: {
    group: "test.fairlead.dev",
    scope: "Namespaced",
    names: { plural: "spans", singular: "span", kind: "Span" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: "object",
            properties: {
              spec: {
                type: "object",
                properties: { min: { type: "integer" }, max: { type: "integer", default: 9 } },
                "x-kubernetes-validations": [{ rule: "self.min <= self.max", message: "min must not be above max" }],
              },
            },
          },
        },
      },
    ],
  },
};
const span = (min: number): KubeObject => ({
  apiVersion: "test.fairlead.dev/v1",
  kind: "Span",
  metadata: { name: "one", namespace: "default" },
  spec: { min },
});

const dataOf = async (api: KubeApi, name: string): Promise<unknown> =>
  (await api.get<{ data: unknown }>(`/api/v1/namespaces/default/configmaps/${name}`)).data;

const goneFrom = (cluster: ClusterPaths): void => {
  assert.equal(leftOf(hierarchies(), cluster), false);
  assert.equal(existsSync(cluster.dir), false);
};

test(
  "objects are applied and judged, what dies is named and comes back with its data, and nothing is left",
  options,
  async () => {
    let was: ClusterPaths | undefined;
    await withApiServer(async ({ cluster, state, api }) => {
      was = cluster;
      await api.apply(configMap("kept", { a: "1" }));
      assert.deepEqual(await dataOf(api, "kept"), { a: "1" });
      await api.apply(crd);
      await waitFor("the new kind is served", () => api.apply(span(3)).then(Boolean, () => false));
      const made = await api.get<KubeObject>(await api.pathOf(span(3)));
      assert.deepEqual(made.spec, { min: 3, max: 9 });
      await assert.rejects(
        api.apply(span(10)),
        (e) => e instanceof ApiError && e.status === 422 && /min must not be above max/.test(e.message),
      );
      const { gitVersion } = await api.get<{ gitVersion: string }>("/version");
      assert.equal(gitVersion, state.built["kube-apiserver"]?.version);

      const kubeconfig = parse(readFileSync(cluster.kubeconfig, "utf8"));
      assert.equal(kubeconfig.clusters[0].cluster.server, api.server);
      assert.match(Buffer.from(kubeconfig.users[0].user["client-key-data"], "base64").toString(), /PRIVATE KEY/);

      const before = await clusterStatus(cluster);
      assert.deepEqual([before.state, before.problems], ["up", []]);
      const etcd = before.programs.find((p) => p.name === "etcd");
      assert.ok(etcd?.pid);
      process.kill(etcd.pid, "SIGKILL");
      const broken = await waitFor("the status says that etcd is gone", async () => {
        const status = await clusterStatus(cluster);
        return (
          status.state === "broken" && status.problems.some((p) => /^etcd does not run; its log: /.test(p)) && status
        );
      });
      assert.equal(broken.programs.find((p) => p.name === "kube-apiserver")?.pid, before.programs[1]?.pid);
      await up(cluster, apiOnly, cacheFolder(process.env), quiet);
      // Ready for requests again, an API server has still to find that its store is back.
      const after = await waitFor("the status is up again", async () => {
        const status = await clusterStatus(cluster);
        return status.state === "up" && status;
      });
      assert.equal(after.programs[1]?.pid, before.programs[1]?.pid);
      assert.deepEqual(await dataOf(api, "kept"), { a: "1" });
      await assert.rejects(
        up(cluster, { ...apiOnly, apiServerFlags: ["--v=1"] }, cacheFolder(process.env), quiet),
        /with other options or versions/,
      );
    });
    assert.ok(was !== undefined);
    goneFrom(was);
  },
);

test("two clusters at once share neither addresses nor objects", options, async () => {
  await withApiServer(async (one) => {
    await withApiServer(async (two) => {
      assert.notEqual(one.api.server, two.api.server);
      assert.notDeepEqual(ranges(one.state.block), ranges(two.state.block));
      await one.api.apply(configMap("mine", { a: "1" }));
      await assert.rejects(dataOf(two.api, "mine"), (e) => e instanceof ApiError && e.status === 404);
    });
    assert.deepEqual(await dataOf(one.api, "mine"), { a: "1" });
  });
});

test("a server that cannot start is named at once, with its last words and its log", options, async () => {
  const cluster = clusterPaths(testClusterName());
  try {
    const starting = up(cluster, { ...apiOnly, apiServerFlags: ["--no-such-flag"] }, cacheFolder(process.env), quiet);
    await assert.rejects(starting, (error: Error) => {
      assert.match(error.message, /^kube-apiserver has ended: .*unknown flag: --no-such-flag/);
      assert.ok(error.message.endsWith(`its log: ${cluster.logs}/kube-apiserver.log`));
      return true;
    });
  } finally {
    await downCluster(cluster);
  }
  goneFrom(cluster);
});

test("an up that is killed half way is no obstacle: down removes what there is", options, async () => {
  const cluster = clusterPaths(testClusterName());
  try {
    const child = spawn(process.execPath, [MAIN, "up", "--api-only", "--name", cluster.name], { stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    await waitFor("etcd has been started", () => existsSync(`${cluster.logs}/etcd.log`), options.timeout);
    child.kill("SIGKILL");
    await ended;
    const down = await finish([process.execPath, MAIN, "down", "--name", cluster.name]);
    assert.equal(down.code, 0, down.stderr);
  } finally {
    await downCluster(cluster);
  }
  goneFrom(cluster);
});

test("wrong use is answered with what to do", async () => {
  const said = async (...words: string[]): Promise<readonly [number, string]> => {
    const done = await finish([process.execPath, MAIN, ...words]);
    return [done.code, done.stderr];
  };
  for (const [words, code, text] of [
    [["upp"], 2, /no command upp; there are: up, down/],
    [["up", "--nodes", "-1"], 2, /--nodes/],
    [["up", "--name", "Not-a-name"], 2, /use 1 to 10 lower-case letters and digits/],
    [["down", "other"], 2, /down takes no "other"/],
    [["image", "."], 2, /give a folder, --tag and --out/],
    [["status", "--colour"], 2, /Unknown option '--colour'/],
    [["load", "x.tar", "--name", "nosuch"], 1, /there is no cluster nosuch/],
  ] as const) {
    const [got, stderr] = await said(...words);
    assert.equal(got, code, `${words.join(" ")}: ${stderr}`);
    assert.match(stderr, text);
  }
});
