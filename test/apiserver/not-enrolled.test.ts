// Two controllers on a real API server: what an agent of one says of its pods is known to the other.
import assert from "node:assert/strict";
import { test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { skipApi, withApiServer } from "../cluster/kit.ts";
import { controllerAccess, meshedShop, quickReplicas } from "../kit/api-server.ts";
import { startController, type TestController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { eventually } from "../kit/wait.ts";

const options = { skip: skipApi, timeout: 3_600_000 } as const;

test(
  "[DIS-8] [DP-9] a pod that its node has not enrolled is no tunnel's end at any replica, whichever its agent is at, until that agent has gone",
  options,
  () =>
    withApiServer(async (up) => {
      await meshedShop(up.api);
      using access = await controllerAccess(up);
      const env = { ...access.env, ...quickReplicas };
      await using leader = await startController({}, env);
      await leader.logged("leading");
      await using other = await startController({}, env);
      const said = async (controller: TestController, pod: string): Promise<string> =>
        (await controller.admin("GET", "/v1/status")).json.objects.find((o: { name: string }) => o.name === pod)
          ?.message;
      const nodes = [
        { at: leader, elsewhere: other, node: "n1", pod: "web-1" },
        { at: other, elsewhere: leader, node: "n2", pod: "cart-1" },
      ];
      for (const { at, elsewhere, node, pod } of nodes) {
        const joined = await joinedNode(at, node);
        const stream = joined.stream();
        stream.subscribe(typeUrlOf("Authorization"));
        await stream.next();
        // Of its own pods alone, there as here.
        const pods = ["web-1", "cart-1"].map((name) => ({
          pod: `shop/${name}`,
          enrolled: false,
          reason: `no cgroup on ${node}`,
        }));
        await joined.report({ node, agentVersion: "1", interception: "ebpf", pods, enforcements: [] });
        for (const controller of [at, elsewhere])
          await eventually(async () =>
            assert.match(await said(controller, pod), new RegExp(`is not in the mesh: no cgroup on ${node}`)),
          );
        stream.close();
        for (const controller of [at, elsewhere])
          await eventually(async () => assert.doesNotMatch(await said(controller, pod), /not in the mesh/));
      }
    }),
);
