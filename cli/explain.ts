// `fairlead explain`: which lane, identities and policy decide about a pair, asked of the running agents on both sides.
import { type Fields, fieldsAt, listAt, problemLine } from "../test/lab/objects.ts";
import { type Call, type Command, Failure, UsageError } from "./command.ts";
import {
  askAgent,
  jsonOption,
  meshOptions,
  nodeOf,
  number,
  podNames,
  problemsIn,
  shortIdentity,
  text,
  withMesh,
} from "./mesh.ts";
import { didYouMean, listed } from "./nearest.ts";
import { paint } from "./table.ts";
import type { MeshView, PodView } from "./view.ts";

interface Leg {
  readonly address: string;
  readonly lane: string;
  readonly endpoint: Fields;
  /** What the destination's node says, where it is the one that decides. */
  readonly inbound: Fields | undefined;
}

export interface Explanation {
  readonly source: string;
  readonly destination: string;
  readonly verdict: string;
  readonly lane: string;
  readonly policy: string;
  readonly reason: string;
  readonly outbound: Fields;
  readonly legs: readonly Leg[];
}

const join = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);

/** Asks the source's node, and for each endpoint the destination's; about a request, where any of it is given. @throws Failure when nobody can say */
export async function explainPair(
  mesh: MeshView,
  source: string,
  destination: string,
  request: readonly (readonly [name: string, value: string])[] = [],
): Promise<Explanation> {
  const pods = await mesh.pods();
  const pod = pods.find((p) => `${p.namespace}/${p.name}` === source);
  if (pod === undefined)
    throw new Failure(
      `there is no pod ${source}${didYouMean(source, podNames(pods), `; there are ${listed(podNames(pods))}`)}`,
    );
  if (!pod.meshed) return fromOutside(mesh, pod, pods, destination);
  const query = new URLSearchParams([["source", source], ["destination", destination], ...request.map((p) => [...p])]);
  const answer = await askAgent(nodeOf(mesh, pod), `/v1/explain?${query}`);
  if (answer.value === undefined) {
    // An agent knows only what the controller accepts; why it does not know the service the controller can say.
    const service = `Service ${destination.replace(/:\d+$/, "")}`;
    const refused = (await problemsIn(mesh)).find((p) => p.object === service && p.isWarning !== true);
    throw new Failure(`${answer.error ?? "no answer"}${refused === undefined ? "" : `; ${problemLine(refused)}`}`);
  }
  const outbound = answer.value;
  const legs = await Promise.all(listAt(outbound.endpoints).map((e) => legOf(mesh, pod, outbound, fieldsAt(e))));
  return summarize(source, destination, outbound, legs);
}

async function legOf(mesh: MeshView, pod: PodView, outbound: Fields, endpoint: Fields): Promise<Leg> {
  const at = fieldsAt(endpoint.address);
  const address = join(text(at.ip), number(at.port));
  const lane = text(endpoint.lane);
  const node = mesh.nodes.find((n) => n.name === text(endpoint.node));
  if (node === undefined || lane === "direct" || lane === "local")
    return { address, lane, endpoint, inbound: undefined };
  const source = fieldsAt(outbound.source);
  const sameFamily = pod.ips.find((ip) => ip.includes(":") === text(at.ip).includes(":")) ?? "";
  const identity = lane === "plain" ? {} : { identity: text(source.identity) };
  const tunnel = lane === "tunnel" ? "fairlead/1" : lane;
  const query = new URLSearchParams({ source: sameFamily, destination: address, tunnel, ...identity });
  for (const [name, value] of asSent(fieldsAt(outbound.request))) query.append(name, value);
  const answer = await askAgent(node, `/v1/explain-inbound?${query}`);
  return { address, lane, endpoint, inbound: answer.value };
}

/** The request as its server gets it; nothing where none was asked about, or nobody reads it. */
function asSent(request: Fields): readonly (readonly [name: string, value: string])[] {
  if (request.read !== true) return [];
  const headers = listAt(request.headers).map((header) => ["header", text(header)] as const);
  const features = listAt(request.features).map((feature) => ["feature", text(feature)] as const);
  return [
    ["method", text(request.method)],
    ["path", text(request.path)],
    ["host", text(request.sentHost)],
    ...headers,
    ...features,
  ];
}

/** A pod outside the mesh: nobody redirects it, so only the destination's node has a say. It may speak HBONE by itself. */
async function fromOutside(
  mesh: MeshView,
  pod: PodView,
  pods: readonly PodView[],
  destination: string,
): Promise<Explanation> {
  const match = /^([^/]+\/[^/:]+):(\d+)$/.exec(destination);
  const service = (await mesh.services()).find((s) => `${s.namespace}/${s.name}` === match?.[1]);
  if (service === undefined)
    throw new Failure(
      `${pod.namespace}/${pod.name} is not in the mesh; name a service as NAMESPACE/SERVICE:PORT to see what its node says`,
    );
  const endpoints = service.ports.find((p) => p.port === Number(match?.[2]))?.endpoints;
  if (endpoints === undefined)
    throw new Failure(
      `${service.namespace}/${service.name} has no port ${match?.[2]}, only ${service.ports.map((p) => p.port).join(", ")}`,
    );
  const legs: Leg[] = [];
  // As the agents do: the family of the service's first address.
  const isV6 = service.addresses[0]?.includes(":") ?? endpoints[0]?.startsWith("[") ?? false;
  for (const address of endpoints.filter((e) => e.startsWith("[") === isV6)) {
    const ip = address.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
    const target = pods.find((p) => p.ips.includes(ip));
    if (target === undefined) continue;
    const source = pod.ips.find((own) => own.includes(":") === ip.includes(":")) ?? "";
    const answer = target.meshed
      ? await askAgent(
          nodeOf(mesh, target),
          `/v1/explain-inbound?${new URLSearchParams({ source, destination: address, tunnel: "announced" })}`,
        )
      : {};
    const speaks = text(answer.value?.tunnel);
    legs.push({
      address,
      lane: speaks === "fairlead/1" ? "tunnel" : speaks === "" ? "plain" : speaks,
      endpoint: { workload: `${target.namespace}/${target.name}`, node: target.node },
      inbound: answer.value,
    });
  }
  const lanes = [...new Set(legs.map((l) => l.lane))];
  const outbound = {
    source: { pod: `${pod.namespace}/${pod.name}`, identity: legs[0]?.inbound?.identity ?? null },
    verdict: "allow",
    lane: lanes.length === 0 ? "plain" : lanes.join(","),
    reason: "source_not_in_mesh",
  };
  return summarize(`${pod.namespace}/${pod.name}`, destination, outbound, legs);
}

/** The source's refusal wins; else the first destination that refuses; else what allowed it. */
function summarize(source: string, destination: string, outbound: Fields, legs: readonly Leg[]): Explanation {
  const refusing =
    outbound.verdict === "refuse"
      ? outbound
      : legs
          .map((l) => l.inbound ?? fieldsAt(l.endpoint.verdict))
          .find((v) => v.verdict === "refuse" || v.allow === false);
  const deciding = refusing ?? legs.find((l) => l.inbound !== undefined)?.inbound ?? outbound;
  return {
    source,
    destination,
    verdict: refusing === undefined ? "allow" : "refuse",
    lane: refusing === undefined ? text(outbound.lane) : "none",
    policy: text(deciding.policy),
    reason: text(deciding.reason),
    outbound,
    legs,
  };
}

export const explain: Command = {
  name: "explain",
  usage:
    "explain NAMESPACE/POD NAMESPACE/SERVICE:PORT [--path PATH] [--method METHOD] [--host HOST] [--header NAME:VALUE]… [--feature mesh.KEY=VALUE]… [--lab NAME | --context NAME] [--json]",
  summary:
    "What happens to a connection, or to a request on it: lane, route, identities, the policy that decides, the verdict.",
  details:
    "With any of --path, --method, --host, --header and --feature a request is explained (GET / of the service's own name where they say nothing).\nExit code 0 if it is allowed, 3 if it is refused.",
  options: {
    path: { type: "string", value: "PATH", help: "path of a request, with its query" },
    method: { type: "string", value: "METHOD", help: "its method" },
    host: { type: "string", value: "HOST", help: "its Host" },
    header: {
      type: "string",
      value: "NAME:VALUE",
      multiple: true,
      help: "one of its headers; may be given several times",
    },
    feature: {
      type: "string",
      value: "mesh.KEY=VALUE",
      multiple: true,
      help: "what the enricher finds out about it, as mesh.zone=eu-1 or mesh.score=0.7; may be given several times",
    },
    ...meshOptions,
    json: jsonOption,
  },
  run: async (call) => {
    const [source, destination] = call.words;
    if (source === undefined || destination === undefined)
      throw new UsageError("give the source pod and the destination, e.g. shop/client shop/web:80");
    const request = ["path", "method", "host"].flatMap((name) => {
      const value = call.text(name);
      return value === undefined ? [] : [[name, value] as const];
    });
    const headers = call.list("header").map((header) => ["header", header] as const);
    const features = call.list("feature").map((feature) => ["feature", feature] as const);
    const asked = [...request, ...headers, ...features];
    const told = await withMesh(call, (mesh) => explainPair(mesh, source, destination, asked));
    if (call.flag("json")) call.output.out(JSON.stringify(told, null, 2));
    else print(told, call);
    return told.verdict === "allow" ? 0 : 3;
  },
};

function printRequest(request: Fields, out: Call["output"]["out"]): void {
  if (request.method === undefined) return;
  out(`  request             ${text(request.method)} ${text(request.asked)}`);
  if (request.read !== true) {
    out(`    not read          ${text(request.why)}`);
    return;
  }
  const rule =
    request.rule === undefined
      ? "none: to the service's own endpoints"
      : `${text(request.route)} rule ${text(request.rule)}`;
  out(
    `    route             ${request.answer === undefined ? rule : text(request.route) === "" ? "none matches" : rule}`,
  );
  const answer = fieldsAt(request.answer);
  if (answer.status !== undefined)
    out(
      `    answered here     ${text(answer.status)} (${text(answer.reason)})${number(answer.delayMs) > 0 ? `, after ${number(answer.delayMs)} ms` : ""}${shareText(answer.percent)}`,
    );
  const divert = fieldsAt(request.divert);
  if (divert.service !== undefined)
    out(`    diverted to       ${text(divert.service)}:${text(divert.port)}${shareText(divert.percent)}`);
  for (const backend of listAt(request.backends).map(fieldsAt))
    out(
      `    backend           ${text(backend.service)}:${text(backend.port)} weight ${text(backend.weight)}${text(backend.invalid) === "" ? "" : ` (${text(backend.invalid)})`}`,
    );
  if (text(request.path) !== text(request.asked)) out(`    sent as           ${text(request.path)}`);
  for (const mirror of listAt(request.mirrors)) out(`    mirrored to       ${text(mirror)}`);
  const { requestMs, tryMs } = fieldsAt(request.timeouts);
  if (number(requestMs) + number(tryMs) > 0)
    out(`    timeouts          request ${number(requestMs) || "none"}, try ${number(tryMs) || "none"} (ms)`);
  const panic = number(request.panicPercent);
  if (panic > 0) out(`    panic             all endpoints are used where fewer than ${panic} % are healthy`);
  const retry = fieldsAt(request.retry);
  if (retry.attempts !== undefined) out(`    retries           ${text(retry.attempts)} more`);
}

const shareText = (percent: unknown): string =>
  typeof percent === "number" && percent < 100 ? `: ${percent} % of such requests, the others go on` : "";

function print(told: Explanation, call: Call): void {
  const { out, colour } = call.output;
  const good = told.verdict === "allow";
  out(
    `${told.source} -> ${told.destination}: ${paint(good ? "allowed" : "refused", good ? "green" : "red", colour)}, lane ${told.lane}${told.policy === "" ? "" : `, by policy ${told.policy}`}${good ? "" : ` (${told.reason})`}`,
  );
  const source = fieldsAt(told.outbound.source);
  out(`  source identity     ${shortIdentity(source.identity)}`);
  const route = fieldsAt(told.outbound.route);
  if (text(route.kind) !== "")
    out(
      `  route               ${Object.entries(route)
        .map(([k, v]) => `${k} ${text(v)}`)
        .join(", ")}`,
    );
  printRequest(fieldsAt(told.outbound.request), out);
  const interception = fieldsAt(told.outbound.interception);
  if (interception.directLane === false)
    out(`  interception        ${text(interception.way)}, which has no direct lane: ${text(interception.reason)}`);
  if (text(told.outbound.protocol) !== "") out(`  protocol            ${text(told.outbound.protocol)}`);
  const limits = fieldsAt(told.outbound.connectionLimits);
  if (number(limits.maxConnections) > 0)
    out(
      `  connections         at most ${text(limits.maxConnections)} from this namespace and node, ${text(limits.maxPending)} more wait (${text(limits.policy)})`,
    );
  const { endpoint, seconds } = fieldsAt(told.outbound.affinity);
  if (text(endpoint) !== "")
    out(`  stays with          ${text(endpoint)}, until ${text(seconds)} s after its last connection`);
  for (const { workload, why } of listAt(told.outbound.leftOut).map(fieldsAt))
    out(`  left out            ${text(workload)}: ${text(why)}`);
  for (const leg of told.legs) {
    out(`  endpoint            ${leg.address} ${text(leg.endpoint.workload)} on ${text(leg.endpoint.node)}`);
    out(
      `    lane              ${leg.lane}${leg.lane !== "direct" && text(leg.endpoint.whyNotDirect) !== "" ? ` (not direct: ${text(leg.endpoint.whyNotDirect)})` : ""}`,
    );
    out(`    identity          ${shortIdentity(leg.endpoint.identity)}`);
    const said = leg.inbound ?? fieldsAt(leg.endpoint.verdict);
    const mtls = fieldsAt(leg.inbound?.mtls ?? leg.endpoint.mtls);
    if (text(mtls.mode) !== "")
      out(`    mutual TLS        ${text(mtls.mode)}${text(mtls.policy) === "" ? "" : ` by ${text(mtls.policy)}`}`);
    for (const trial of listAt(mtls.dryRun).map(fieldsAt))
      out(`    mutual TLS        ${text(trial.mode)} by ${text(trial.policy)} (dry run: not enforced)`);
    const policies = listAt(leg.inbound?.policies ?? leg.endpoint.policies).map(fieldsAt);
    out(
      `    policies          ${policies.map((p) => `${text(p.name)} (${text(p.action)}${p.dryRun === true ? ", dry run" : ""})`).join(", ") || "none"}`,
    );
    for (const limit of listAt(leg.inbound?.rateLimits ?? leg.endpoint.rateLimits))
      out(`    rate limit        ${text(limit)}`);
    const refuses = said.verdict === "refuse" || said.allow === false;
    if (said.verdict !== undefined || said.allow !== undefined)
      out(
        `    verdict           ${refuses ? "refuse" : "allow"}: ${text(said.reason)}${text(said.policy) === "" ? "" : `, ${text(said.policy)}${said.rule === null || said.rule === undefined ? "" : ` rule ${text(said.rule)}`}`}`,
      );
    if (text(said.input) !== "") out(`    input             ${text(said.input)}`);
    for (const key of listAt(leg.inbound?.needs ?? leg.endpoint.needs).map(text))
      out(
        `    depends on        ${key}, which the enricher finds out: give --${key.replace("features.", "feature ")}=VALUE`,
      );
    for (const note of listAt(said.notes))
      out(`    note              ${typeof note === "string" ? note : JSON.stringify(note)}`);
  }
}
