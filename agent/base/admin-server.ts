// A small JSON server for admin, health and metrics: unix socket, plain TCP, or TLS 1.3 with client certificates.
// It answers only listed paths, bounds heads, bodies and waits, and refuses fields that a route does not name.
import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect } from "node:net";
import type { TLSSocket } from "node:tls";
import { checkBody, type FieldTypes, isCleanPath, readBody } from "./admin-request.ts";
import { type Logger, messageOf } from "./log.ts";

export interface AdminRequest {
  readonly query: URLSearchParams;
  /** The checked JSON object of a POST; {} without a body. */
  readonly body: Readonly<Record<string, unknown>>;
  /** URI SANs of the caller's certificate; empty on other listeners. */
  readonly callerIds: readonly string[];
}
export interface AdminReply {
  readonly status: number;
  /** An object is sent as JSON, a string as it is with `contentType`. */
  readonly body: unknown;
  readonly contentType?: string;
  /** Instead of a body: lines for as long as the caller stays. Gives what is to be called when it has gone. */
  readonly lines?: (out: LineOut) => () => void;
}
/** An answer that goes on. */
export interface LineOut {
  /** Lines with their ends; false: the caller is behind, they are not sent. */
  write(lines: string): boolean;
}
export interface Route {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Fields that a POST body may hold, with their types; "?" at the end of a type makes it optional. */
  readonly fields?: FieldTypes;
  handle(request: AdminRequest): Promise<AdminReply> | AdminReply;
}
export interface AdminTls {
  readonly certPem: string;
  readonly keyPem: string;
  readonly clientRootsPem: string;
  /** A caller needs a URI SAN that starts with one of these. */
  readonly allowedSanPrefixes: readonly string[];
}
export interface AdminLimits {
  readonly bodyBytes: number;
  readonly headMs: number;
  readonly readMs: number;
  readonly writeMs: number;
  readonly idleMs: number;
}
export const defaultAdminLimits: AdminLimits = {
  bodyBytes: 16_384,
  headMs: 5_000,
  readMs: 30_000,
  writeMs: 30_000,
  idleMs: 60_000,
};

export interface AdminServerOptions {
  readonly routes: readonly Route[];
  readonly log: Logger;
  readonly limits?: AdminLimits;
  readonly tls?: AdminTls;
}
/** `reusePort`: two processes may listen at once, as while one replaces the other. */
export type AdminAddress =
  | { readonly path: string }
  | { readonly host: string; readonly port: number; readonly reusePort?: boolean };
export interface AdminServer {
  /** Starts listening; a unix socket is made root-only. Resolves to the port (0 for a socket). */
  listen(address: AdminAddress): Promise<number>;
  /** New server certificate and client roots for new connections. */
  setTls(tls: AdminTls): void;
  close(): Promise<void>;
}

export const json = (body: unknown, status = 200): AdminReply => ({ status, body });
export const problem = (status: number, code: string, message: string): AdminReply => ({
  status,
  body: { error: { code, message } },
});

/** Builds a server; nothing listens before `listen`. */
export function createAdminServer(options: AdminServerOptions): AdminServer {
  const limits = options.limits ?? defaultAdminLimits;
  let tls = options.tls;
  const routes = new Map(options.routes.map((route) => [`${route.method} ${route.path}`, route]));
  const paths = new Set(options.routes.map((route) => route.path));

  const answer = async (request: IncomingMessage): Promise<AdminReply> => {
    const callerIds = tls === undefined ? [] : uriSans(request.socket as TLSSocket);
    if (tls !== undefined) {
      const { allowedSanPrefixes } = tls;
      if (!callerIds.some((id) => allowedSanPrefixes.some((prefix) => id.startsWith(prefix)))) {
        options.log.warn("admin_caller_refused", { callerIds, peer: request.socket.remoteAddress });
        return problem(403, "caller_not_allowed", "the certificate names no identity that may use this endpoint");
      }
    }
    const [path = "", query = ""] = (request.url ?? "").split("?", 2);
    if (!isCleanPath(path)) return problem(400, "bad_path", "the path is not in its plain form");
    const method = request.method === "HEAD" ? "GET" : request.method;
    const route = routes.get(`${method} ${path}`);
    if (route === undefined) {
      return paths.has(path)
        ? problem(405, "method_not_allowed", `${method} is not answered at ${path}`)
        : problem(404, "not_found", `nothing at ${path}`);
    }
    const body = await readBody(request, limits.bodyBytes);
    if (!body.ok) return problem(body.error.status, body.error.code, body.error.message);
    const checked = checkBody(body.value, route.fields ?? {});
    if (!checked.ok) return problem(400, "bad_body", checked.error);
    return route.handle({ query: new URLSearchParams(query), body: checked.value, callerIds });
  };

  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    // A caller that does not read its answer is cut off.
    response.setTimeout(limits.writeMs, () => request.socket.destroy());
    answer(request)
      .catch((error: unknown) => {
        options.log.error("admin_request_failed", { path: request.url, error });
        return problem(500, "internal", messageOf(error));
      })
      .then((reply) => send(request, response, reply));
  };

  const http = { headersTimeout: limits.headMs, requestTimeout: limits.readMs, keepAliveTimeout: limits.idleMs };
  const common = { ...http, connectionsCheckingInterval: Math.min(1000, limits.headMs), maxHeaderSize: 8192 };
  const server: Server =
    tls === undefined ? createServer(common, onRequest) : createTlsServer({ ...common, ...secure(tls) }, onRequest);
  server.on("tlsClientError", (error: Error) => options.log.debug("admin_tls_refused", { message: error.message }));

  return {
    async listen(address) {
      if ("path" in address) await clearStaleSocket(address.path);
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(address, () => {
          server.off("error", reject);
          resolve();
        });
      });
      if ("path" in address) chmodSync(address.path, 0o600);
      const bound = server.address() as AddressInfo | string | null;
      return typeof bound === "object" && bound !== null ? bound.port : 0;
    },
    setTls(next) {
      tls = next;
      if ("setSecureContext" in server) (server as ReturnType<typeof createTlsServer>).setSecureContext(secure(next));
    },
    close() {
      return new Promise((resolve) => {
        if (!server.listening) {
          resolve();
          return;
        }
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}

function secure(tls: AdminTls) {
  return {
    cert: tls.certPem,
    key: tls.keyPem,
    ca: tls.clientRootsPem,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3" as const,
  };
}

function uriSans(socket: TLSSocket): readonly string[] {
  const text = socket.getPeerX509Certificate?.()?.subjectAltName ?? "";
  // Node quotes a SAN that holds separators, so a plain "URI:" entry cannot be smuggled inside another.
  return text.split(", ").flatMap((entry) => (entry.startsWith("URI:") ? [entry.slice(4)] : []));
}

/** Bytes that a caller of lines may leave unread. */
const mostUnread = 1_048_576;

function sendLines(response: ServerResponse, lines: NonNullable<AdminReply["lines"]>): void {
  response.writeHead(200, { "content-type": "application/x-ndjson", "cache-control": "no-store", connection: "close" });
  response.flushHeaders();
  const stop = lines({
    write(text) {
      if (response.destroyed || response.writableLength > mostUnread) return false;
      response.write(text);
      return true;
    },
  });
  response.once("close", stop);
  if (response.destroyed) stop();
}

function send(request: IncomingMessage, response: ServerResponse, reply: AdminReply): void {
  if (reply.lines !== undefined && request.method !== "HEAD") {
    sendLines(response, reply.lines);
    return;
  }
  const isText = typeof reply.body === "string";
  const bytes = Buffer.from(isText ? (reply.body as string) : `${JSON.stringify(reply.body)}\n`);
  const headers: Record<string, string | number> = {
    "content-type": reply.contentType ?? (isText ? "text/plain; charset=utf-8" : "application/json"),
    "content-length": bytes.length,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  };
  // An unread rest of the request must not be taken for the next one.
  if (!request.complete) headers.connection = "close";
  response.writeHead(reply.status, headers);
  response.end(request.method === "HEAD" ? undefined : bytes);
}

/** Removes the socket of a process that is gone; a live one keeps it and `listen` fails with EADDRINUSE. */
async function clearStaleSocket(path: string): Promise<void> {
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
  if (!alive) rmSync(path, { force: true });
}
