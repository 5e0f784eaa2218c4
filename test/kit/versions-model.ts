// Requests of both versions of HTTP and what their servers and clients must see of them, said plainly: the model that translation is held
// against. The server answers as the request's field `x-plan` asks.
import { once } from "node:events";
import { type Agent, createServer as createHttp1, type IncomingMessage, request as request1 } from "node:http";
import {
  type ClientHttp2Session,
  createServer as createHttp2,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type IncomingHttpHeaders,
} from "node:http2";
import type { AddressInfo } from "node:net";

export type Fields = readonly (readonly [name: string, value: string])[];

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly fields: Fields;
  readonly cookies: readonly string[];
  readonly takesTrailers: boolean;
  /** In these pieces. */
  readonly body: readonly number[];
  readonly saysLength: boolean;
  readonly trailers: Fields;
}
export interface Planned {
  readonly status: number;
  readonly fields: Fields;
  readonly body: readonly number[];
  readonly saysLength: boolean;
  readonly trailers: Fields;
  readonly hints: boolean;
}
/** What one side saw of a message: values of a name joined, names in order of the alphabet. */
export interface Seen {
  readonly line: string;
  readonly fields: Readonly<Record<string, string>>;
  readonly body: string;
  readonly trailers: Readonly<Record<string, string>>;
}
export interface Answer extends Seen {
  readonly hints: boolean;
  readonly server: Seen;
}

const content = (pieces: readonly number[]): Buffer[] => pieces.map((size, i) => Buffer.alloc(size, `${i}abcdefg`));
const digest = (body: Buffer): string =>
  `${body.length}:${body.subarray(0, 40).toString()}:${body.subarray(-20).toString()}`;
const grouped = (fields: Fields): Record<string, string> => {
  const all: Record<string, string> = {};
  for (const [name, value] of fields) all[name] = all[name] === undefined ? value : `${all[name]}, ${value}`;
  return Object.fromEntries(Object.entries(all).sort());
};
/** Ours alone: programs add fields of their own. */
const ours = (headers: object): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers)
      .filter(([name]) => /^(?:x-[a-z]|cookie$)/.test(name) && name !== "x-plan" && name !== "x-seen")
      .map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );

type Ask = IncomingMessage | Http2ServerRequest;

async function serve(ask: Ask, isHttp2: boolean, response: Http2ServerResponse): Promise<void> {
  const plan = JSON.parse(Buffer.from(String(ask.headers["x-plan"]), "base64").toString()) as Planned;
  const parts: Buffer[] = [];
  for await (const part of ask as AsyncIterable<Buffer>) parts.push(part);
  const seen: Seen = {
    line: `${ask.method} ${(isHttp2 ? ask.headers[":authority"] : ask.headers.host) ?? ""} ${ask.url} te=${ask.headers.te ?? ""}`,
    fields: ours(ask.headers),
    body: digest(Buffer.concat(parts)),
    trailers: ours(ask.trailers),
  };
  const bodiless = plan.status === 204 || plan.status === 304 || ask.method === "HEAD";
  if (plan.hints) response.writeEarlyHints({ link: "</a.css>; rel=preload" });
  const body = content(plan.body);
  const length = body.reduce((sum, piece) => sum + piece.length, 0);
  const fields: Record<string, string[]> = {};
  for (const [name, value] of plan.fields) fields[name] = [...(fields[name] ?? []), value];
  for (const [name, values] of Object.entries(fields)) response.setHeader(name, values);
  response.setHeader("x-seen", Buffer.from(JSON.stringify(seen)).toString("base64"));
  if (plan.saysLength && plan.status !== 204) response.setHeader("content-length", length);
  else if (!isHttp2 && plan.trailers.length > 0 && !bodiless)
    response.setHeader("trailer", plan.trailers.map(([n]) => n).join(", "));
  response.writeHead(plan.status);
  if (!bodiless) {
    for (const piece of body) response.write(piece);
    if (plan.trailers.length > 0 && !(plan.saysLength && !isHttp2)) response.addTrailers(grouped(plan.trailers));
  }
  response.end();
}

/** A server of that version that answers as it is asked to. */
export async function planServer(isHttp2: boolean): Promise<{ readonly port: number; close(): void }> {
  const take = (ask: Ask, response: unknown): void => void serve(ask, isHttp2, response as Http2ServerResponse);
  const server = isHttp2 ? createHttp2(take) : createHttp1(take);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      server.close();
      if ("closeAllConnections" in server) server.closeAllConnections();
    },
  };
}

const planField = (plan: Planned): string => Buffer.from(JSON.stringify(plan)).toString("base64");

export function lists(asked: Asked): Record<string, string | string[]> {
  const fields: Record<string, string | string[]> = {};
  for (const [name, value] of asked.fields) {
    const before = fields[name];
    fields[name] = before === undefined ? value : [...(Array.isArray(before) ? before : [before]), value];
  }
  return fields;
}

export async function ask1(port: number, agent: Agent, asked: Asked, plan: Planned): Promise<Answer> {
  const body = content(asked.body);
  const length = body.reduce((sum, piece) => sum + piece.length, 0);
  const headers: Record<string, string | string[]> = {
    host: "a.example:81",
    ...lists(asked),
    "x-plan": planField(plan),
  };
  if (asked.cookies.length > 0) headers.cookie = asked.cookies.join("; ");
  if (asked.takesTrailers) headers.te = "trailers";
  if (asked.saysLength && length > 0) headers["content-length"] = String(length);
  else if (length > 0) headers["transfer-encoding"] = "chunked";
  const request = request1({ port, path: asked.path, method: asked.method, agent, headers });
  let hints = false;
  request.on("information", ({ statusCode }) => {
    hints ||= statusCode === 103;
  });
  for (const piece of body) request.write(piece);
  if (length > 0 && !asked.saysLength && asked.trailers.length > 0) request.addTrailers(grouped(asked.trailers));
  const answered = once(request, "response") as Promise<[IncomingMessage]>;
  request.end();
  const [response] = await answered;
  const parts: Buffer[] = [];
  for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
  return answerOf(response.statusCode ?? 0, response.headers, Buffer.concat(parts), response.trailers, hints);
}

export async function ask2(session: ClientHttp2Session, asked: Asked, plan: Planned): Promise<Answer> {
  const body = content(asked.body);
  const length = body.reduce((sum, piece) => sum + piece.length, 0);
  const hasTrailers = length > 0 && asked.trailers.length > 0;
  const stream = session.request(
    {
      ":method": asked.method,
      ":path": asked.path,
      ":authority": "a.example:81",
      ...lists(asked),
      "x-plan": planField(plan),
      ...(asked.cookies.length > 0 ? { cookie: [...asked.cookies] } : {}),
      ...(asked.takesTrailers ? { te: "trailers" } : {}),
      ...(asked.saysLength && length > 0 ? { "content-length": String(length) } : {}),
    },
    { endStream: length === 0, waitForTrailers: hasTrailers },
  );
  let trailers: IncomingHttpHeaders = {};
  let hints = false;
  stream.on("trailers", (fields: IncomingHttpHeaders) => {
    trailers = fields;
  });
  stream.on("headers", (fields: IncomingHttpHeaders) => {
    hints ||= Number(fields[":status"]) === 103;
  });
  if (hasTrailers) stream.on("wantTrailers", () => stream.sendTrailers(grouped(asked.trailers)));
  const answered = once(stream, "response") as Promise<[IncomingHttpHeaders]>;
  if (length > 0) {
    for (const piece of body) stream.write(piece);
    stream.end();
  }
  const [headers] = await answered;
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return answerOf(Number(headers[":status"]), headers, Buffer.concat(parts), trailers, hints);
}

const answerOf = (status: number, headers: object, body: Buffer, trailers: object, hints: boolean): Answer => ({
  line: String(status),
  fields: ours(headers),
  body: digest(body),
  trailers: ours(trailers),
  hints,
  server: JSON.parse(Buffer.from(String((headers as Record<string, unknown>)["x-seen"]), "base64").toString()) as Seen,
});

/** What must come of it. `from`, `to`: versions of client and server. */
export function expected(asked: Asked, plan: Planned, from: 1 | 2, to: 1 | 2): Answer {
  const body = Buffer.concat(content(asked.body));
  const answer = Buffer.concat(content(plan.body));
  const bodiless = plan.status === 204 || plan.status === 304 || asked.method === "HEAD";
  // HTTP/1.1 has trailers in chunked messages alone.
  const requestTrailers = body.length > 0 && !(asked.saysLength && (from === 1 || to === 1));
  const hasLength = plan.saysLength && plan.status !== 204;
  const answerTrailers = !bodiless && !(hasLength && (from === 1 || to === 1));
  const cookie = asked.cookies.join("; ");
  return {
    line: String(plan.status),
    fields: grouped(plan.fields),
    body: digest(bodiless ? Buffer.alloc(0) : answer),
    trailers: answerTrailers ? grouped(plan.trailers) : {},
    hints: plan.hints,
    server: {
      line: `${asked.method} a.example:81 ${asked.path} te=${asked.takesTrailers ? "trailers" : ""}`,
      fields: Object.fromEntries(
        Object.entries({ ...(cookie === "" ? {} : { cookie }), ...grouped(asked.fields) }).sort(([a], [b]) =>
          a < b ? -1 : 1,
        ),
      ),
      body: digest(body),
      trailers: requestTrailers ? grouped(asked.trailers) : {},
    },
  };
}
