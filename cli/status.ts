// `fairlead status`: every object with what became of it, agents, and pods that are not in the mesh though they should be.
import { fieldsAt, listAt, problemLine } from "../test/lab/objects.ts";
import type { Call, Command } from "./command.ts";
import { problemsOf } from "./find-lab.ts";
import { askAgent, askControllers, jsonOption, meshOptions, number, text, withMesh } from "./mesh.ts";
import { type Cell, cell, table } from "./table.ts";
import type { MeshView } from "./view.ts";

const quiet = new Set(["Namespace", "ServiceAccount", "EndpointSlice"]);

export const status: Command = {
  name: "status",
  usage: "status [--lab NAME | --context NAME] [--all] [--json]",
  summary: "Objects (accepted, on how many nodes in force, or why not), agents and pods.",
  options: {
    ...meshOptions,
    all: { type: "boolean", help: "also namespaces, service accounts and pods" },
    json: jsonOption,
  },
  run: (call) => withMesh(call, (mesh) => show(mesh, call)),
};

async function show(mesh: MeshView, call: Call): Promise<number> {
  const [{ status: controller, replicas, silent: mute }, pods] = await Promise.all([askControllers(mesh), mesh.pods()]);
  const objects = listAt(controller.objects).map(fieldsAt);
  // What the lab itself cannot use (a pod without a command) the controller does not know of.
  const said = new Set(objects.flatMap(problemsOf).map((p) => `${p.file} ${p.object}`));
  const problems = mesh.problems.filter((p) => !said.has(`${p.file} ${p.object}`));
  const agents = await Promise.all(
    mesh.nodes.map(async (n) => ({ node: n.name, ...(await askAgent(n, "/v1/status")) })),
  );
  if (call.flag("json")) {
    call.output.out(JSON.stringify({ ...mesh.named, controller, replicas, agents, pods, problems }, null, 2));
    return 0;
  }
  const { out, colour } = call.output;
  const servedBy = new Map(listAt(controller.agents).map((a) => [text(fieldsAt(a).node), text(fieldsAt(a).replica)]));
  const rows = agents.map(({ node, value, error }): (string | Cell)[] => {
    if (value === undefined) return [node, cell("silent", "red"), "", "", "", "", error ?? ""];
    const discovery = fieldsAt(value.discovery);
    const pods = fieldsAt(value.pods);
    const troubled = listAt(fieldsAt(value.certificates).troubled).length;
    const connected = discovery.connected === true;
    return [
      node,
      cell(text(value.phase), value.phase === "ready" ? "green" : "yellow"),
      text(value.interception),
      cell(
        connected
          ? (replicas.length > 1 && servedBy.get(node)) || "connected"
          : discovery.stale === true
            ? "stale"
            : "away",
        connected ? "green" : "yellow",
      ),
      `${text(pods.enrolled)} of ${text(pods.known)}`,
      text(number(fieldsAt(value.certificates).identities) - troubled),
      [text(discovery.problem), troubled > 0 ? `${troubled} certificates missing or late` : ""]
        .filter(Boolean)
        .join("; "),
    ];
  });
  out(table(["AGENT", "STATE", "INTERCEPTION", "CONTROLLER", "PODS IN MESH", "CERTIFICATES", "TROUBLE"], rows, colour));
  for (const { node, value } of agents)
    if (value?.directLane === false)
      out(`${node}: no direct lane, intercepts with ${text(value.interception)}: ${text(value.interceptionReason)}`);
  const shown = objects.filter(
    (o) =>
      call.flag("all") || o.accepted !== true || text(o.fix) !== "" || !(quiet.has(text(o.kind)) || o.kind === "Pod"),
  );
  out("");
  out(table(["KIND", "OBJECT", "ACCEPTED", "IN FORCE", "FILE", "REASON"], shown.map(objectRow), colour));
  for (const line of mute) call.output.err(line);
  const silent = pods.filter((p) => p.meshed && p.enrolled !== "yes");
  for (const p of silent)
    call.output.err(`pod ${p.namespace}/${p.name} should be in the mesh and is not: ${p.reason} ${p.message}`);
  for (const p of problems) call.output.err(problemLine(p));
  return objects.every((o) => o.accepted === true) && agents.every((a) => a.value !== undefined) ? 0 : 1;
}

function objectRow(o: Readonly<Record<string, unknown>>): (string | Cell)[] {
  const enforced = o.enforced === null ? undefined : fieldsAt(o.enforced);
  const everywhere = enforced !== undefined && enforced.nodes === enforced.of;
  const reason =
    text(o.reason) === "Accepted" && text(o.message) === ""
      ? ""
      : `${text(o.field)}${text(o.field) === "" ? "" : ": "}${text(o.message)}${text(o.fix) === "" ? "" : `; ${text(o.fix)}`}`;
  const further = listAt(o.problems)
    .slice(1)
    .map(fieldsAt)
    .map((p) => `also ${text(p.field)}: ${text(p.message)}; ${text(p.fix)}`);
  const why = listAt(o.why).map((w) => (typeof w === "string" ? w : Object.values(fieldsAt(w)).map(text).join(": ")));
  return [
    text(o.kind) || "-",
    text(o.namespace) === "" ? text(o.name) || "-" : `${text(o.namespace)}/${text(o.name)}`,
    cell(o.accepted === true ? "yes" : "no", o.accepted !== true ? "red" : text(o.fix) === "" ? "green" : "yellow"),
    enforced === undefined
      ? "-"
      : cell(`${text(enforced.nodes)}/${text(enforced.of)}`, everywhere ? "green" : "yellow"),
    `${text(o.file)}${number(o.line) > 0 ? `:${number(o.line)}` : ""}`,
    [reason, ...further, ...why].filter(Boolean).join("; "),
  ];
}
