// HTTP with JSON over a unix socket: how the command line, the lab, the controller and agents are asked. A socket of another machine is
// reached through an agent (of node:http) that makes the connections.
import { type Agent, request } from "node:http";
import { err, ok, type Result } from "../../agent/base/result.ts";

/** A socket's path, or what connects to one elsewhere. */
export type Place = string | Agent;

export interface Reply {
  readonly status: number;
  readonly text: string;
  readonly json: unknown;
}

export interface CallOptions {
  readonly method?: "GET" | "POST" | "DELETE";
  readonly body?: unknown;
  readonly timeoutMs?: number;
  /** Called with each line of a streamed answer. */
  readonly onLine?: (line: string) => void;
  /** Ends the call; its result is then an error. */
  readonly signal?: AbortSignal;
}

/** Of an answer that is given line by line, characters that are also kept as its text. */
const mostKept = 65_536;

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** Asks once. The error is a sentence: nobody listens, or no answer in time. */
export function call(place: Place, path: string, options: CallOptions = {}): Promise<Result<Reply, string>> {
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  const name = typeof place === "string" ? `${place}: ` : "";
  return new Promise((resolve) => {
    const asked = request(
      {
        ...(typeof place === "string" ? { socketPath: place, agent: false } : { agent: place }),
        path,
        method: options.method ?? "GET",
        ...(options.signal === undefined ? {} : { signal: options.signal }),
        headers:
          body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
      },
      (response) => {
        let text = "";
        let line = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          if (options.onLine === undefined || text.length < mostKept) text += chunk;
          if (options.onLine === undefined) return;
          line += chunk;
          const lines = line.split("\n");
          line = lines.pop() ?? "";
          for (const l of lines) options.onLine(l);
        });
        response.on("end", () => resolve(ok({ status: response.statusCode ?? 0, text, json: parse(text) })));
        response.on("error", (e) => resolve(err(`${name}${e.message}`)));
      },
    );
    const timeoutMs = options.timeoutMs ?? 10_000;
    const timer =
      timeoutMs === Number.POSITIVE_INFINITY
        ? undefined
        : setTimeout(() => asked.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    asked.on("close", () => clearTimeout(timer));
    asked.on("error", (e: NodeJS.ErrnoException) => {
      const absent = e.code === "ENOENT" || e.code === "ECONNREFUSED";
      resolve(err(absent && name !== "" ? `nothing listens on ${place}` : `${name}${e.message}`));
    });
    asked.end(body);
  });
}

/** Asks and expects a 2xx answer with JSON; anything else is an error sentence. */
export async function callJson(
  place: Place,
  path: string,
  options: CallOptions = {},
): Promise<Result<unknown, string>> {
  const reply = await call(place, path, options);
  if (!reply.ok) return reply;
  if (reply.value.status >= 200 && reply.value.status < 300) return ok(reply.value.json);
  const said = (reply.value.json as { readonly error?: string | { readonly message?: string } } | undefined)?.error;
  const text = typeof said === "string" ? said : said?.message;
  return err(text ?? `${path}: status ${reply.value.status} ${reply.value.text.slice(0, 300)}`.trim());
}
