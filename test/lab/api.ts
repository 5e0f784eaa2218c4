// The supervisor's HTTP interface on its unix socket (root only, by the folder's mode): what `fairlead lab` and the test kit ask.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Lab } from "./lab.ts";
import { fieldsAt } from "./objects.ts";

export interface ApiParts {
  readonly lab: Lab;
  readonly progress: readonly string[];
  readonly listeners: Set<(line: string) => void>;
  readonly down: () => Promise<void>;
  readonly leave: () => Promise<void>;
}

const BODY_LIMIT = 4 << 20;

class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

async function bodyOf(request: IncomingMessage): Promise<Readonly<Record<string, unknown>>> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_LIMIT) throw new Refused(413, `body over ${BODY_LIMIT} bytes`);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString();
  if (text === "") return {};
  try {
    return fieldsAt(JSON.parse(text));
  } catch {
    throw new Refused(400, "body: not JSON");
  }
}

const send = (response: ServerResponse, status: number, value: unknown): void => {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(value)}\n`);
};

/** One request. */
export async function answer(parts: ApiParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  try {
    await route(parts, request, response);
  } catch (error) {
    send(response, error instanceof Refused ? error.status : 500, { error: (error as Error).message });
  }
}

async function route(parts: ApiParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { lab } = parts;
  const url = new URL(request.url ?? "/", "http://lab");
  const body = request.method === "POST" ? await bodyOf(request) : {};
  const text = (field: string): string => {
    const value = body[field];
    if (typeof value !== "string" || value === "") throw new Refused(400, `${field}: must be text`);
    return value;
  };
  switch (`${request.method} ${url.pathname}`) {
    case "GET /v1/status": {
      const status = lab.status();
      await lab.settled();
      return send(response, 200, status);
    }
    case "GET /v1/progress":
      return follow(parts, response);
    case "GET /v1/exec": {
      const pod = lab.pods.get(url.searchParams.get("pod") ?? "");
      if (pod === undefined)
        throw new Refused(
          404,
          `no pod ${url.searchParams.get("pod")} in lab ${lab.options.name}; it has: ${[...lab.pods.keys()].join(", ")}`,
        );
      const plan = pod.execPlan(url.searchParams.get("container") ?? undefined);
      if (typeof plan === "string") throw new Refused(409, plan);
      return send(response, 200, plan);
    }
    case "POST /v1/apply": {
      const done = lab.apply(text("manifest"), typeof body.file === "string" ? body.file : "-");
      await lab.reconcile();
      return send(response, 200, done);
    }
    case "POST /v1/delete": {
      const object = {
        kind: text("kind"),
        namespace: typeof body.namespace === "string" ? body.namespace : "",
        name: text("name"),
      };
      const found = lab.remove(object);
      if (!found)
        throw new Refused(404, `no ${object.kind} ${object.namespace}/${object.name} in lab ${lab.options.name}`);
      await lab.reconcile();
      return send(response, 200, { deleted: true });
    }
    case "POST /v1/sync":
      lab.mirror.sync();
      await lab.reconcile();
      return send(response, 200, {});
    case "POST /v1/agent":
      return send(response, 200, await agentAction(lab, text("node"), text("action"), body));
    case "POST /v1/controller":
      return send(response, 200, await controllerAction(lab, text("action"), body));
    case "POST /v1/down":
      await parts.down();
      send(response, 200, {});
      response.on("close", () => void parts.leave());
      return;
    default:
      throw new Refused(404, `no such path: ${request.method} ${url.pathname}`);
  }
}

function follow(parts: ApiParts, response: ServerResponse): void {
  response.writeHead(200, { "content-type": "text/plain" });
  const isLast = (line: string): boolean => line === "up" || line.startsWith("failed: ");
  const write = (line: string): void => {
    response.write(`${line}\n`);
    if (!isLast(line)) return;
    parts.listeners.delete(write);
    response.end();
  };
  const past = [...parts.progress];
  if (!past.some(isLast)) parts.listeners.add(write);
  response.on("close", () => parts.listeners.delete(write));
  for (const line of past) {
    write(line);
    if (isLast(line)) return;
  }
}

const envOf = (value: unknown): Record<string, string> =>
  Object.fromEntries(Object.entries(fieldsAt(value)).map(([k, v]) => [k, String(v)]));

async function agentAction(
  lab: Lab,
  name: string,
  action: string,
  body: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  const node = lab.nodes.get(name);
  if (node === undefined)
    throw new Refused(404, `no node ${name} in lab ${lab.options.name}; it has: ${[...lab.nodes.keys()].join(", ")}`);
  const agent = node.agent;
  if (agent === undefined) throw new Refused(409, `lab ${lab.options.name} was started with --no-agents`);
  const env = body.env === undefined ? undefined : envOf(body.env);
  if (typeof body.from === "string") node.runAgentsOf(body.from);
  const startedMs = performance.now();
  if (action === "replace") await agent.replace(env);
  else if (action === "kill-start") {
    await agent.stop("SIGKILL");
    await agent.start(env);
  } else if (action === "stop") await agent.stop("SIGTERM");
  else if (action === "kill") await agent.stop("SIGKILL");
  else if (action === "start") await agent.start(env);
  else if (action === "freeze") agent.signal("SIGSTOP");
  else if (action === "thaw") agent.signal("SIGCONT");
  else throw new Refused(400, `action: ${action} is none of replace, kill-start, stop, kill, start, freeze, thaw`);
  return { node: name, ...agent.status, tookMs: Math.round(performance.now() - startedMs) };
}

async function controllerAction(lab: Lab, action: string, body: Readonly<Record<string, unknown>>): Promise<unknown> {
  const daemon = lab.controller?.daemon;
  if (daemon === undefined) throw new Refused(409, `lab ${lab.options.name} was started with --no-agents`);
  if (action === "stop") await daemon.stop("SIGTERM");
  else if (action === "kill") await daemon.stop("SIGKILL");
  else if (action === "start") await daemon.start(body.env === undefined ? undefined : envOf(body.env));
  else throw new Refused(400, `action: ${action} is none of stop, kill, start`);
  return daemon.status;
}
