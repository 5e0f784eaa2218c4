// The place where the HTTP lane plugs in, whole: native accepts in the pod, hands the descriptor to a data thread, which carries the bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { labOptions, withLab } from "../kit/lab.ts";
import { clientPod, httpPort, manifest, namespace, nodePod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const page = `require("http").createServer((q, s) => s.end("from " + q.url)).listen(8080, "::")`;

const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    namespace("outside", false),
    clientPod("shop/client", { node: "node1" }),
    nodePod("outside/web", page, { node: "node2" }),
    service("outside/web", "web", {}, { ...httpPort, ipFamilyPolicy: "RequireDualStack" }),
  ),
};

test(
  "[INT-15] a connection that a data thread takes arrives there as a descriptor, unread, and is carried whole",
  labOptions,
  async () => {
    await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
      await lab.ready("outside/web");
      for (let i = 0; i < 20; i++) {
        const got = await lab.run("shop/client", ["curl", "-sS", "-m", "30", `http://web.outside/page/${i}`]);
        assert.equal(got.stdout, `from /page/${i}`, got.stderr);
      }
      const handed = await waitFor("records of handed connections", async () => {
        const found = (await lab.records("node1")).filter((r) => r.reason === "handed_over");
        return found.length >= 20 ? found : undefined;
      });
      assert.equal(handed.length, 20);
    });
  },
);
