// `fairlead check`: whether a cluster can take Fairlead, and whether what is installed there works.
import { fieldsAt } from "../test/lab/objects.ts";
import type { Cluster } from "./cluster/connect.ts";
import {
  aboutGatewayApi,
  aboutInstallation,
  aboutKubernetes,
  aboutNodes,
  aboutRights,
  type Finding,
} from "./cluster/findings.ts";
import { withCluster } from "./cluster/load.ts";
import { clusterOptions, componentLabel, placeOf } from "./cluster/options.ts";
import { type Call, type Command, Failure } from "./command.ts";
import { askAgent, askController, jsonOption } from "./mesh.ts";
import { cell, table } from "./table.ts";

/** What an installation writes that not everybody may. */
const rights = [
  { verb: "create", group: "apiextensions.k8s.io", resource: "customresourcedefinitions" },
  { verb: "create", group: "rbac.authorization.k8s.io", resource: "clusterroles" },
  { verb: "create", group: "", resource: "namespaces" },
  { verb: "create", group: "apps", resource: "daemonsets" },
] as const;

export const check: Command = {
  name: "check",
  usage: "check [--context NAME] [--json]",
  summary:
    "Whether the cluster can take Fairlead, and whether what is installed there works; each trouble with its fix.",
  details: "Exit code 0 if all is well or only warned of, 1 if something fails.",
  options: { ...clusterOptions, json: jsonOption },
  run: (call) => withCluster(placeOf(call), (cluster) => checked(cluster, call)),
};

async function checked(cluster: Cluster, call: Call): Promise<number> {
  const findings = [...(await beforehand(cluster)), ...(await installed(cluster))];
  if (call.flag("json")) {
    const isWell = findings.every((f) => f.state !== "failed");
    call.output.out(JSON.stringify({ cluster: cluster.context, ok: isWell, findings }, null, 2));
    return isWell ? 0 : 1;
  }
  const colours = { ok: "green", warning: "yellow", failed: "red" } as const;
  const rows = findings.map((f) => [
    cell(f.state, colours[f.state]),
    f.about,
    `${f.message}${f.fix === "" ? "" : `; ${f.fix}`}`,
  ]);
  call.output.out(table(["STATE", "WHAT", "FINDING"], rows, call.output.colour));
  return findings.every((f) => f.state !== "failed") ? 0 : 1;
}

async function beforehand(cluster: Cluster): Promise<readonly Finding[]> {
  const version = await cluster.find("/version");
  if (version === undefined) throw new Failure(`${cluster.server} tells no version: is it an API server?`);
  const [gatewayApi, nodes, denied] = await Promise.all([
    cluster.find("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io"),
    cluster.list("/api/v1/nodes"),
    deniedOf(cluster),
  ]);
  return [aboutKubernetes(version), aboutGatewayApi(gatewayApi), ...aboutNodes(nodes), aboutRights(denied)];
}

async function deniedOf(cluster: Cluster): Promise<readonly string[]> {
  const answers = await Promise.all(
    rights.map(async (right) => {
      const answer = await cluster.api.send({
        method: "POST",
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        body: {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SelfSubjectAccessReview",
          spec: { resourceAttributes: right },
        },
      });
      const isAllowed = answer.ok && fieldsAt(fieldsAt(answer.value).status).allowed === true;
      return isAllowed ? [] : [`${right.verb} ${right.resource}`];
    }),
  );
  return answers.flat();
}

async function installed(cluster: Cluster): Promise<readonly Finding[]> {
  const apps = `/apis/apps/v1/namespaces/${cluster.namespace}`;
  const selected = (component: string) => ({ labelSelector: `${componentLabel}=${component}` });
  const [[daemonSet], [deployment]] = await Promise.all([
    cluster.list(`${apps}/daemonsets`, selected("agent")),
    cluster.list(`${apps}/deployments`, selected("controller")),
  ]);
  if (daemonSet === undefined || deployment === undefined) {
    const message = `is not installed in namespace ${cluster.namespace}`;
    return [{ about: "Fairlead", state: "warning", message, fix: "fairlead install, or name its --mesh-namespace" }];
  }
  const { meshIn } = await import("./cluster/view.ts");
  const mesh = await meshIn(cluster).catch((error: Error) => error);
  if (mesh instanceof Error)
    return aboutInstallation({ daemonSet, deployment, agents: [], controller: { error: mesh.message } }, Date.now());
  try {
    const [agents, controller] = await Promise.all([
      Promise.all(mesh.nodes.map(async (node) => ({ node: node.name, ...(await askAgent(node, "/v1/status")) }))),
      askController(mesh, "/v1/status").then(
        (value) => ({ value }),
        (error: Error) => ({ error: error.message }),
      ),
    ]);
    return aboutInstallation({ daemonSet, deployment, agents, controller }, Date.now());
  } finally {
    mesh.close();
  }
}
