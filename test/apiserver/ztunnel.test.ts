// ztunnels as callers in a cluster: tokens as a real API server makes and judges them, and the ConfigMap of roots with no more rights than the chart gives.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { type ServiceError, status } from "@grpc/grpc-js";
import { CHART } from "../../scripts/gen-install.ts";
import { skipApi, withApiServer } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import { cacheFolder } from "../cluster/paths.ts";
import { helmProgram } from "../cluster/up.ts";
import { controllerAccess, meshedNamespace, podToken } from "../kit/api-server.ts";
import { startController } from "../kit/controller.ts";
import { istioChain } from "../kit/istio-client.ts";
import { callerWithToken, makeCsr, rootsOf } from "../kit/node-agent.ts";
import { ownCa } from "../kit/shared-ca.ts";
import { eventually } from "../kit/wait.ts";
import { run } from "../lab/command.ts";

const options = { skip: skipApi, timeout: 3_600_000 } as const;
const addresses = "type.googleapis.com/istio.workload.Address";
const ambient = "istio-system";
const id = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`;

async function runs(api: KubeApi, path: string, nodeName: string, serviceAccountName: string): Promise<void> {
  const [namespace = "", name = ""] = path.split("/");
  const spec = { nodeName, serviceAccountName, containers: [{ name: "c", image: "x" }] };
  await api.apply({ apiVersion: "v1", kind: "Pod", metadata: { name, namespace }, spec });
  const place = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
  await api.call("PATCH", place, { status: { phase: "Running" } }, "application/merge-patch+json");
}

const tokenOf = (api: KubeApi, account: string, pod?: string, audience = "istio-ca"): Promise<string> =>
  podToken(api, account, pod, audience);

/** What the chart adds where ztunnels are let in. */
async function chartRights(): Promise<readonly KubeObject[]> {
  const helm = await helmProgram(cacheFolder(process.env), (line) => console.error(line));
  const words = ["--set", `controller.ztunnelAccounts={${ambient}/ztunnel}`];
  const shown = ["--show-only", "templates/controller/ztunnels.yaml"];
  return parseObjects(await run([helm, "template", "fairlead", CHART, ...words, ...shown]));
}

test(
  "[DIS-11] [IDN-11] in a cluster a ztunnel is known by its token for istio-ca, and finds the roots beside it",
  options,
  () =>
    withApiServer(async ({ api, cluster }) => {
      await api.apply(meshedNamespace("shop"));
      await api.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: ambient } });
      for (const name of ["n1", "n2"]) await api.apply({ apiVersion: "v1", kind: "Node", metadata: { name } });
      using access = await controllerAccess({ api, cluster });
      for (const object of await chartRights()) await api.apply(object);
      for (const [namespace, name] of [
        [ambient, "ztunnel"],
        [ambient, "other"],
        ["fairlead-system", "fairlead-agent"],
        ["shop", "web"],
        ["shop", "db"],
      ] as const)
        await api.apply({ apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace, name } });
      await runs(api, `${ambient}/ztunnel-1`, "n1", "ztunnel");
      await runs(api, `${ambient}/other-1`, "n1", "other");
      await runs(api, "fairlead-system/agent-1", "n1", "fairlead-agent");
      await runs(api, "shop/web-1", "n1", "web");
      await runs(api, "shop/db-1", "n2", "db");
      await using controller = await startController(
        {},
        {
          ...access.env,
          ...ownCa,
          FAIRLEAD_TOKEN_CACHE_MS: "100",
          FAIRLEAD_PLACEMENT_WAIT_MS: "300",
          FAIRLEAD_ISTIO_ACCOUNTS: `${ambient}/ztunnel`,
        },
      );
      const roots = await rootsOf(controller);
      const token = await tokenOf(api, `${ambient}/ztunnel`, "ztunnel-1");
      const ask = (by: string, identity: string) => istioChain({ controller, roots, token: by }, identity);

      // Of its node's pods, and of no others'.
      const [leaf = ""] = await ask(token, id("web"));
      assert.equal(new X509Certificate(leaf).subjectAltName, `URI:${id("web")}`);
      const refusedAs = (code: number, says: RegExp) => (e: ServiceError) => e.code === code && says.test(e.details);
      await assert.rejects(ask(token, id("db")), refusedAs(status.PERMISSION_DENIED, /no pod of shop\/db runs on/));
      const stream = callerWithToken(controller, token, roots).stream();
      try {
        stream.send({ typeUrl: addresses });
        const names = (await stream.next()).resources.map((r) => r.name);
        assert.ok(names.includes("Kubernetes//Pod/shop/db-1"), String(names));
      } finally {
        stream.close();
      }

      const refusals: readonly (readonly [string, Promise<string>, number, RegExp])[] = [
        [
          "the audience of our agents",
          tokenOf(api, `${ambient}/ztunnel`, "ztunnel-1", "fairlead-ca"),
          status.UNAUTHENTICATED,
          /not for the audience istio-ca/,
        ],
        ["another account", tokenOf(api, `${ambient}/other`, "other-1"), status.PERMISSION_DENIED, /other may not ask/],
        [
          "our agent's account",
          tokenOf(api, "fairlead-system/fairlead-agent", "agent-1"),
          status.PERMISSION_DENIED,
          /fairlead-agent may not ask/,
        ],
        ["bound to no pod", tokenOf(api, `${ambient}/ztunnel`), status.PERMISSION_DENIED, /bound to no pod/],
      ];
      for (const [what, made, code, says] of refusals)
        await assert.rejects(ask(await made, id("web")), refusedAs(code, says), what);
      // Nor is it one of our agents.
      await assert.rejects(
        callerWithToken(controller, token, roots).issue(id("web"), (await makeCsr(id("web"))).csrPem),
        refusedAs(status.UNAUTHENTICATED, /not for the audience fairlead-ca/),
      );

      const mounted = async (): Promise<string | undefined> =>
        (await api.get<{ data: Record<string, string> }>(`/api/v1/namespaces/${ambient}/configmaps/istio-ca-root-cert`))
          .data["root-cert.pem"];
      await eventually(async () => assert.equal(await mounted(), roots));
      assert.equal((await controller.admin("POST", "/v1/ca/rotate", { phase: "begin" })).status, 200);
      await eventually(async () => assert.equal(await mounted(), await rootsOf(controller)));
      assert.notEqual(await mounted(), roots);
      // Replicas do not see what the others have issued: it is waited for.
      const early = await controller.admin("POST", "/v1/ca/rotate", { phase: "switch" });
      assert.equal(early.status, 409);

      await api.call("DELETE", `/api/v1/namespaces/${ambient}/pods/ztunnel-1?gracePeriodSeconds=0`);
      await eventually(() => assert.rejects(ask(token, id("web")), /does not run|does not accept/));
    }),
);
