// `fairlead lab ...`: brings labs up, changes them, looks into them and takes them down.
import { systemClock } from "../agent/base/clock.ts";
import {
  absentLab,
  labAsk,
  labDown,
  labLeft,
  labNames,
  labStatus,
  labUp,
  pathsOf,
  spawnInPod,
} from "../test/lab/client.ts";
import { ended } from "../test/lab/command.ts";
import { readText } from "../test/lab/files.ts";
import { defaultOptions, type LabStatus } from "../test/lab/lab-options.ts";
import { problemLine } from "../test/lab/objects.ts";
import { type LabPaths, nodePaths } from "../test/lab/paths.ts";
import { type Call, type Command, Failure, pairs, UsageError, wholeNumber } from "./command.ts";
import { labName, withProblems } from "./find-lab.ts";
import { interruptible } from "./interrupt.ts";
import { apply, remove } from "./lab-objects.ts";
import { jsonOption as json, labOption as name, need, podNames } from "./mesh.ts";
import { didYouMean, listed } from "./nearest.ts";
import { reporting } from "./progress.ts";
import { cell, table } from "./table.ts";

const up: Command = {
  name: "lab up",
  usage: "lab up --manifests DIR [--nodes N] [--dual-stack] [--name NAME] [--no-agents] [--interception MODE]",
  summary: "Brings up nodes and pods out of a folder of Kubernetes manifests, on this machine.",
  details:
    "Pods run their command from this machine's file system, in their own network namespace. Changes in the folder are taken live.",
  options: {
    manifests: { type: "string", short: "m", value: "DIR", help: "folder of manifests" },
    nodes: { type: "string", value: "N", help: "number of nodes (default: as many as the manifests name, at least 2)" },
    "dual-stack": { type: "boolean", help: "IPv4 and IPv6 (always so; kept for scripts)" },
    name: { type: "string", value: "NAME", help: "name of the lab (default: lab)" },
    "no-agents": { type: "boolean", help: "only network and pods: no controller, no agents, no mesh" },
    interception: { type: "string", value: "MODE", help: "ebpf, nftables or auto (default)" },
    "agent-env": {
      type: "string",
      value: "NAME=VALUE",
      multiple: true,
      help: "setting of the agents; may be repeated",
    },
    "controller-env": {
      type: "string",
      value: "NAME=VALUE",
      multiple: true,
      help: "setting of the controller; may be repeated",
    },
    json,
  },
  run: async (call) => {
    const manifests = call.text("manifests") ?? call.words[0];
    if (manifests === undefined) throw new UsageError("--manifests is missing: give the folder of manifests");
    const mode = call.text("interception");
    if (mode !== undefined && !["ebpf", "nftables", "auto"].includes(mode))
      throw new UsageError(`--interception ${mode}: use ebpf, nftables or auto`);
    const options = {
      ...defaultOptions,
      name: call.text("name") ?? "lab",
      manifests,
      nodes: wholeNumber(call, "nodes", 0, 1, 200),
      agents: !call.flag("no-agents"),
      agentPrefix: [],
      agentEnv: { ...(mode === undefined ? {} : { FAIRLEAD_INTERCEPTION: mode }), ...pairs(call, "agent-env") },
      controllerEnv: pairs(call, "controller-env"),
    };
    let owned = false;
    const own = (): void => {
      owned = true;
    };
    const begun = await interruptible(
      () => labUp(options, call.output.err, own),
      async () => (owned ? labDown(options.name) : undefined),
      call.output.err,
    );
    const status = need(begun);
    await show(status, call);
    if (!call.flag("json"))
      call.output.err(`lab ${options.name} is up; fairlead lab down --name ${options.name} takes it down`);
    return 0;
  },
};

async function show(status: LabStatus, call: Call): Promise<void> {
  const whole = await withProblems(status);
  if (call.flag("json")) return call.output.out(JSON.stringify(whole, null, 2));
  const { colour, out } = call.output;
  const controller = status.controller === null ? "none" : `${status.controller.state} (pid ${status.controller.pid})`;
  out(`lab ${status.name}: ${status.state}, manifests ${status.manifests}, controller ${controller}`);
  const state = (s: string) => cell(s, s === "ready" ? "green" : s === "none" ? "grey" : "yellow");
  out(
    table(
      ["NODE", "ADDRESSES", "AGENT", "PID", "RESTARTS", "DRAINING"],
      status.nodes.map((n) => [
        n.name,
        n.ips.join(" "),
        state(n.agent?.state ?? "none"),
        String(n.agent?.pid ?? "-"),
        String(n.agent?.restarts ?? 0),
        n.agent?.draining.join(" ") || "-",
      ]),
      colour,
    ),
  );
  out("");
  out(
    table(
      ["POD", "NODE", "ADDRESSES", "PHASE", "READY", "MESH", "RESTARTS", "REASON"],
      status.pods.map((p) => [
        `${p.namespace}/${p.name}`,
        p.node,
        p.ips.join(" "),
        p.phase,
        cell(p.ready ? "yes" : "no", p.ready || p.phase === "Succeeded" ? "green" : "yellow"),
        p.meshed ? (p.enrolled === "yes" ? "enrolled" : "waiting") : "-",
        String(p.restarts),
        `${p.reason} ${p.message}`.trim(),
      ]),
      colour,
    ),
  );
  if (status.services.length > 0) {
    out("");
    out(
      table(
        ["SERVICE", "ADDRESSES", "READY ENDPOINTS"],
        status.services.map((s) => [
          `${s.namespace}/${s.name}`,
          s.addresses.join(" ") || "none",
          s.endpoints.join(" ") || cell("none", "yellow"),
        ]),
        colour,
      ),
    );
  }
  for (const p of whole.problems) call.output.err(problemLine(p));
}

const exec: Command = {
  name: "lab exec",
  usage: "lab exec NAMESPACE/POD [--container NAME] [--name NAME] -- COMMAND [ARGUMENT...]",
  summary: "Runs a command inside a pod: its network, hosts file, /tmp and environment.",
  options: {
    name,
    container: {
      type: "string",
      short: "c",
      value: "NAME",
      help: "whose environment and user to take (default: the first container)",
    },
  },
  run: async (call) => {
    const [pod] = call.words;
    if (pod === undefined || !pod.includes("/")) throw new UsageError("name the pod as NAMESPACE/POD");
    if (call.rest.length === 0) throw new UsageError("give the command after --");
    const container = call.text("container");
    const lab = labName(call.text("name"));
    const names = podNames(need(await labStatus(lab)).pods);
    if (!names.includes(pod))
      throw new Failure(`lab ${lab} has no pod ${pod}${didYouMean(pod, names, `; it has ${listed(names)}`)}`);
    const child = need(await spawnInPod(lab, pod, call.rest, container === undefined ? {} : { container }));
    // The terminal sends ^C to both; what is sent to this process alone is passed on.
    for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
    for (const signal of ["SIGINT", "SIGQUIT"] as const)
      process.on(signal, () => (process.stdin.isTTY ? undefined : child.kill(signal)));
    return ended(child);
  },
};

function agentCommand(
  verb: string,
  summary: string,
  options: Command["options"],
  action: (call: Call) => string,
): Command {
  return {
    name: `lab ${verb}`,
    usage: `lab ${verb} NODE ${Object.keys(options)
      .map((o) => `[--${o}]`)
      .join(" ")} [--name NAME]`.replaceAll("  ", " "),
    summary,
    options: {
      name,
      env: {
        type: "string",
        value: "NAME=VALUE",
        multiple: true,
        help: "other setting for the new process; may be repeated",
      },
      json,
      ...options,
    },
    run: async (call) => {
      const [node] = call.words;
      if (node === undefined) throw new UsageError("name the node, e.g. node1");
      const lab = labName(call.text("name"));
      const names = need(await labStatus(lab)).nodes.map((n) => n.name);
      if (!names.includes(node))
        throw new Failure(`lab ${lab} has no node ${node}${didYouMean(node, names, `; it has ${listed(names)}`)}`);
      const env = call.list("env").length > 0 ? { env: pairs(call, "env") } : {};
      const done = need(await labAsk(lab, "/v1/agent", { node, action: action(call), ...env })) as {
        readonly state: string;
        readonly pid: number | null;
        readonly tookMs: number;
        readonly draining: readonly number[];
      };
      if (call.flag("json")) call.output.out(JSON.stringify(done));
      else
        call.output.out(
          `agent of ${node}: ${done.state}${done.pid === null ? "" : `, pid ${done.pid}`}${done.draining.length > 0 ? `, draining ${done.draining.join(" ")}` : ""} (${done.tookMs} ms)`,
        );
      return 0;
    },
  };
}

function controllerCommand(verb: string, summary: string, action: string): Command {
  return {
    name: `lab ${verb}`,
    usage: `lab ${verb} [--name NAME] [--json]`,
    summary,
    options: { name, json },
    run: async (call) => {
      const done = need(await labAsk(labName(call.text("name")), "/v1/controller", { action })) as {
        readonly state: string;
        readonly pid: number | null;
      };
      if (call.flag("json")) call.output.out(JSON.stringify(done));
      else call.output.out(`controller: ${done.state}${done.pid === null ? "" : `, pid ${done.pid}`}`);
      return 0;
    },
  };
}

const status: Command = {
  name: "lab status",
  usage: "lab status [--name NAME] [--json]",
  summary: "Shows nodes, pods, services, and what is wrong with the manifests.",
  options: { name, json },
  run: async (call) => {
    await show(need(await labStatus(labName(call.text("name")))), call);
    return 0;
  },
};

const logs: Command = {
  name: "lab logs",
  usage: "lab logs (NAMESPACE/POD | NODE | controller | supervisor) [--access] [--name NAME]",
  summary: "Prints the output of a pod, of a node's agent, of the controller or of the supervisor.",
  options: { name, access: { type: "boolean", help: "of a node: its access log" } },
  run: async (call) => {
    const [what] = call.words;
    if (what === undefined) throw new UsageError("say whose output: NAMESPACE/POD, a node, controller or supervisor");
    const lab = labName(call.text("name"));
    call.output.out(readLog(need(pathsOf(lab)), what, call.flag("access"), need(await labStatus(lab))));
    return 0;
  },
};

function readLog(paths: LabPaths, what: string, access: boolean, lab: LabStatus): string {
  const pod = lab.pods.find((p) => `${p.namespace}/${p.name}` === what);
  const node = lab.nodes.find((n) => n.name === what);
  const own = node === undefined ? undefined : nodePaths(paths, node.name);
  const file =
    pod?.log ??
    (access ? own?.accessLog : own?.agentLog) ??
    (what === "controller" ? paths.controllerLog : what === "supervisor" ? paths.supervisorLog : undefined);
  if (file === undefined) {
    const names = [...podNames(lab.pods), ...lab.nodes.map((n) => n.name), "controller", "supervisor"];
    throw new Failure(`lab ${lab.name} has no ${what}${didYouMean(what, names, `; it has ${listed(names)}`)}`);
  }
  return readText(file).trimEnd();
}

const down: Command = {
  name: "lab down",
  usage: "lab down [--name NAME | --all] [--json]",
  summary: "Takes a lab down and removes everything of it, also after a crash.",
  options: { name, all: { type: "boolean", help: "every lab on this machine" }, json },
  run: async (call) => {
    const names = call.flag("all") ? labNames() : [labName(call.text("name"))];
    const gone: string[] = [];
    for (const each of names) {
      const left = (): string => `taking lab ${each} down: ${labLeft(each)} processes left`;
      const was = need(await reporting(systemClock, labDown(each), left, call.output.err));
      if (was) gone.push(each);
      call.output.err(was ? `lab ${each} is down` : absentLab(each));
    }
    if (call.flag("json")) call.output.out(JSON.stringify({ down: gone }));
    return 0;
  },
};

const list: Command = {
  name: "lab list",
  usage: "lab list [--json]",
  summary: "Lists the labs on this machine.",
  options: { json },
  run: async (call) => {
    const labs: unknown[] = [];
    for (const each of labNames()) {
      const known = await labStatus(each);
      if (call.flag("json")) {
        const { state, manifests } = known.ok ? known.value : { state: "gone", manifests: "" };
        labs.push({ name: each, state, manifests, ...(known.ok ? {} : { error: known.error }) });
        continue;
      }
      call.output.out(
        known.ok
          ? `${each}  ${known.value.state}  ${known.value.nodes.length} nodes  ${known.value.pods.length} pods  ${known.value.manifests}`
          : `${each}  ${known.error}`,
      );
    }
    if (call.flag("json")) call.output.out(JSON.stringify({ labs }));
    return 0;
  },
};

export const labCommands: readonly Command[] = [
  up,
  exec,
  apply,
  remove,
  agentCommand(
    "restart-agent",
    "Replaces a node's agent: a new one takes over, the old one drains.",
    { kill: { type: "boolean", help: "kill it (SIGKILL) and start it again" } },
    (call) => (call.flag("kill") ? "kill-start" : "replace"),
  ),
  agentCommand(
    "stop-agent",
    "Ends a node's agent and does not start it again.",
    { kill: { type: "boolean", help: "by SIGKILL" } },
    (call) => (call.flag("kill") ? "kill" : "stop"),
  ),
  agentCommand("start-agent", "Starts a node's agent after stop-agent.", {}, () => "start"),
  controllerCommand("stop-controller", "Ends the controller; agents go on with what they know.", "stop"),
  controllerCommand("start-controller", "Starts the controller after stop-controller.", "start"),
  status,
  list,
  logs,
  down,
];
