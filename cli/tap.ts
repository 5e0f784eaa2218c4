// `fairlead tap`: live requests, as the agents that carry them see them; what is not shown for its number is said.
import { setTimeout as sleep } from "node:timers/promises";
import { type Fields, fieldsAt } from "../test/lab/objects.ts";
import { call as ask } from "../test/lab/unix-http.ts";
import { type Call, type Command, Failure, UsageError, wholeNumber } from "./command.ts";
import { jsonOption, meshOptions, number, podNames, text, withMesh } from "./mesh.ts";
import { didYouMean } from "./nearest.ts";
import { bytes, type Colour, duration, paint, printable } from "./table.ts";
import type { MeshView, NodeView, PodView } from "./view.ts";

/** An agent that ended (it was replaced, as a rule) is asked again after this. */
const againMs = 500;

export const tap: Command = {
  name: "tap",
  usage:
    "tap [NAMESPACE[/POD]] [--method M] [--path P] [--status S] [--max N] [--rate N] [--lab NAME | --context NAME] [--json]",
  summary: "Shows live HTTP requests from the agents; those between nodes are seen by both.",
  details:
    "> is a request that the agent's own pod sends, < one that it is sent. A path may have * at its beginning or end; without ? it is compared with the path alone.\nEnds with ^C, or after --max requests. Nothing is seen of a node whose FAIRLEAD_DATA_THREADS is 0.",
  options: {
    ...meshOptions,
    method: { type: "string", value: "METHOD", help: "only these, as GET" },
    path: { type: "string", value: "PATH", help: "only these, as /cart or /cart/*" },
    status: { type: "string", value: "STATUS", help: "only these, as 5xx,404,500-503; 0 is no answer" },
    max: { type: "string", value: "N", help: "end after so many requests" },
    rate: { type: "string", value: "N", help: "of each data thread, show so many a second (default 100)" },
    json: { ...jsonOption, help: "print one JSON document for each request" },
  },
  run: async (call) => {
    const [pod = "", ...more] = call.words;
    if (more.length > 0) throw new UsageError("name at most one NAMESPACE or NAMESPACE/POD");
    const max = wholeNumber(call, "max", Number.POSITIVE_INFINITY, 1, 1_000_000);
    const rate = wholeNumber(call, "rate", 100, 1, 10_000);
    const query = new URLSearchParams({ rate: String(rate) });
    if (pod !== "") query.set("pod", pod);
    for (const option of ["method", "path", "status"]) {
      const value = call.text(option);
      if (value !== undefined) query.set(option, option === "method" ? value.toUpperCase() : value);
    }
    return withMesh(call, async (mesh) => {
      if (pod !== "") checkPod(pod, await mesh.pods());
      return await show(mesh, query, max, call);
    });
  },
};

function checkPod(pod: string, pods: readonly PodView[]): void {
  const known = pod.includes("/") ? podNames(pods) : [...new Set(pods.map((p) => p.namespace))];
  if (known.includes(pod)) return;
  throw new Failure(`there is no ${pod.includes("/") ? "pod" : "namespace"} ${pod}${didYouMean(pod, known, "")}`);
}

/** All agents at once, until there were `max` requests. @throws Failure when an agent refuses the question */
async function show(mesh: MeshView, query: URLSearchParams, max: number, call: Call): Promise<number> {
  const over = new AbortController();
  let shown = 0;
  const onLine = (node: string, line: Fields): void => {
    if (shown >= max) return;
    call.output.out(call.flag("json") ? JSON.stringify({ node, ...line }) : lineOf(node, line, call.output.colour));
    if (++shown >= max) over.abort();
  };
  const missed = (node: string, count: number): void =>
    call.output.err(`${node}: ${count} more that are not shown; narrow the filter or raise --rate`);
  try {
    await Promise.all(mesh.nodes.map((node) => follow(node, query, over.signal, onLine, missed, call.output.err)));
    return 0;
  } finally {
    over.abort();
  }
}

async function follow(
  node: NodeView,
  query: URLSearchParams,
  signal: AbortSignal,
  onLine: (node: string, line: Fields) => void,
  missed: (node: string, count: number) => void,
  say: (line: string) => void,
): Promise<void> {
  let isSaid = false;
  while (!signal.aborted) {
    let dropped = 0;
    const answer = await ask(node.admin, `/v1/tap?${query}`, {
      timeoutMs: Number.POSITIVE_INFINITY,
      signal,
      onLine(read) {
        const line = fieldsAt(parse(read));
        if (line.type === "request") onLine(node.name, line);
        else if (line.type === "tap" && number(line.dropped) > dropped) {
          missed(node.name, number(line.dropped) - dropped);
          dropped = number(line.dropped);
        }
      },
    });
    if (signal.aborted) return;
    if (answer.ok && answer.value.status !== 200)
      throw new Failure(`agent of ${node.name}: ${text(fieldsAt(fieldsAt(answer.value.json).error).message)}`);
    if (!isSaid) say(`agent of ${node.name}: ${answer.ok ? "it ended" : answer.error}; asking again until it answers`);
    isSaid = !answer.ok;
    await sleep(againMs, undefined, { signal }).catch(() => {});
  }
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** `12:00:01.123 node1 > shop/client -> shop/web GET web/cart 403 UAEX 1.2 ms, 20 B, denied by shop/no-admin rule 0` */
export function lineOf(node: string, line: Fields, colour: boolean): string {
  const status = number(line.status);
  const tone: Colour = status === 0 || status >= 500 ? "red" : status >= 400 ? "yellow" : "green";
  const source = text(line["src.workload"]) || text(line["src.addr"]);
  const destination = text(line["dst.service"]) || text(line["dst.workload"]) || text(line["dst.addr"]);
  const more = [
    duration(number(line.duration_us) / 1000),
    bytes(number(line.response_bytes)),
    line.route === undefined ? "" : `route ${text(line.route)} rule ${text(line.route_rule)}`,
    line.retries === undefined ? "" : `${text(line.retries)} retries`,
    line.denied === true ? `denied by ${text(line.policy) || "?"} rule ${text(line.rule ?? "-")}` : "",
    line.denied === true || line.reason === undefined ? "" : text(line.reason),
  ];
  const flags = line.flags === "-" ? "" : ` ${text(line.flags)}`;
  const words = [
    text(line.time).slice(11, 23),
    node,
    line.direction === "outbound" ? ">" : "<",
    `${source} -> ${destination}`,
    text(line.method),
    `${text(line.authority)}${text(line.path)}`,
  ];
  return `${printable(words.join(" "))} ${paint(String(status), tone, colour)}${printable(`${flags} ${more.filter(Boolean).join(", ")}`)}`;
}
