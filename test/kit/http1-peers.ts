// Clients and servers for tests of the HTTP/1.1 exchange: a proxy with a server behind it, raw connections, curl.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import { connect, createServer as createTcp, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Exchange } from "../../agent/forward/http1/exchange.ts";
import { type Http1Proxy, startProxy } from "./http1-proxy.ts";
import { waitFor } from "./wait.ts";

export interface Ended {
  readonly method: string;
  readonly status: number;
  readonly outcome: string;
  readonly resent: number;
}

type Options = NonNullable<Parameters<typeof startProxy>[1]>;

const listen = (server: {
  listen(port: number, host: string, done: () => void): unknown;
  address(): unknown;
}): Promise<number> =>
  new Promise((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as { readonly port: number }).port)),
  );

/** A node:http server behind a proxy; both end with the test. */
export async function behind(
  t: TestContext,
  serve: RequestListener,
  options: Options = {},
): Promise<{ readonly proxy: Http1Proxy; readonly server: Server; readonly ended: Ended[] }> {
  const ended: Ended[] = [];
  const server = createServer(serve);
  const port = await listen(server);
  const proxy = await startProxy(port, { ...options, handler: { ended: note(ended), ...options.handler } });
  t.after(async () => {
    await proxy[Symbol.asyncDispose]();
    server.closeAllConnections();
    server.close();
  });
  return { proxy, server, ended };
}

/** The same with a server that speaks for itself. */
export async function behindTcp(
  t: TestContext,
  serve: (socket: Socket) => void,
  options: Options = {},
): Promise<{ readonly proxy: Http1Proxy; readonly ended: Ended[] }> {
  const ended: Ended[] = [];
  const open = new Set<Socket>();
  const server = createTcp({ allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  const port = await listen(server);
  const proxy = await startProxy(port, { ...options, handler: { ended: note(ended), ...options.handler } });
  t.after(async () => {
    await proxy[Symbol.asyncDispose]();
    for (const socket of open) socket.destroy();
    server.close();
  });
  return { proxy, ended };
}

export const note =
  (ended: Ended[]) =>
  ({ method, status, outcome, resent }: Exchange): void => {
    ended.push({ method, status, outcome, resent });
  };

/** Sends `text` on a raw connection and gives all that comes until `stop` holds or the connection ends. */
export function raw(
  port: number,
  text: string,
  stop: (got: string) => boolean = () => false,
  end = false,
): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    let got = "";
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
    socket.on("close", () => resolve(got));
    socket.on("data", (data) => {
      got += data.toString("latin1");
      if (stop(got)) socket.destroy();
    });
    if (end) socket.end(text);
    else socket.write(text);
  });
}

export const curl = (...args: readonly string[]): Promise<{ readonly out: string; readonly code: number }> =>
  new Promise((resolve) => {
    const child = execFile(
      "curl",
      ["-sS", "-m", "60", ...args],
      { encoding: "latin1", maxBuffer: 64e6 },
      (error, out) => resolve({ out, code: error === null ? 0 : Number(error.code) }),
    );
    child.stdin?.end();
  });

export const echo: RequestListener = (req, res) => {
  const hash = createHash("sha256");
  let size = 0;
  req.on("data", (data: Buffer) => {
    size += data.length;
    hash.update(data);
  });
  req.on("end", () => {
    res.setHeader("content-type", "application/json");
    res.end(
      JSON.stringify({
        method: req.method,
        url: req.url,
        headers: req.headers,
        size,
        hash: hash.digest("hex"),
        trailers: req.trailers,
      }),
    );
  });
};

/** The bodies of `count` responses on a raw connection, read plainly: by Content-Length or in chunks. */
export function readResponses(socket: Socket, count: number): Promise<Buffer[]> {
  return new Promise((resolve, reject) => {
    const bodies: Buffer[] = [];
    let pending = Buffer.alloc(0);
    let body: Buffer[] | undefined;
    let left = -1;
    const step = (): boolean => {
      if (body === undefined) {
        const end = pending.indexOf("\r\n\r\n");
        if (end === -1) return false;
        const head = pending.toString("latin1", 0, end);
        pending = pending.subarray(end + 4);
        const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1];
        body = [];
        left = length === undefined ? -1 : Number(length);
        if (length === undefined) assert.match(head, /\r\ntransfer-encoding: chunked/i);
      }
      if (left >= 0) {
        body.push(pending.subarray(0, left));
        left -= Math.min(left, pending.length);
        pending = pending.subarray(body.at(-1)?.length ?? 0);
        if (left > 0) return false;
      } else {
        const end = pending.indexOf("\r\n");
        if (end === -1) return false;
        const size = Number.parseInt(pending.toString("latin1", 0, end), 16);
        if (pending.length < end + 2 + size + 2) return false;
        body.push(pending.subarray(end + 2, end + 2 + size));
        pending = pending.subarray(end + 2 + size + 2);
        if (size > 0) return true;
      }
      bodies.push(Buffer.concat(body));
      body = undefined;
      return bodies.length < count;
    };
    socket.on("error", reject);
    socket.on("close", () => reject(new Error(`closed after ${bodies.length} of ${count} responses`)));
    socket.on("data", (data: Buffer) => {
      pending = Buffer.concat([pending, data]);
      while (step());
      if (bodies.length === count) resolve(bodies);
    });
  });
}

/** nginx with one file of 300,000 bytes at /file. */
export async function startNginx(t: TestContext): Promise<{ readonly port: number; readonly content: Buffer }> {
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, i) => 32 + ((i * 7) % 90)));
  for (let tries = 0; tries < 10; tries++) {
    const port = await nginxOn(t, content);
    if (port !== undefined) return { port, content };
  }
  throw new Error("nginx does not listen");
}

/** Undefined: somebody else took the port before nginx could. */
async function nginxOn(t: TestContext, content: Buffer): Promise<number | undefined> {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-nginx-"));
  writeFileSync(join(folder, "file"), content);
  const free = createTcp();
  const port = await listen(free);
  await new Promise((resolve) => free.close(resolve));
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((n) => `${n}_temp_path ${folder}/${n};`)
    .join(" ");
  const site = `server { listen 127.0.0.1:${port}; root ${folder}; }`;
  writeFileSync(
    join(folder, "nginx.conf"),
    `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/error.log; user root; events {} http { access_log off; ${temp} ${site} }`,
  );
  const child = spawn("nginx", ["-e", join(folder, "error.log"), "-c", join(folder, "nginx.conf")], {
    stdio: "ignore",
  });
  const gone = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    child.kill();
    await gone;
    rmSync(folder, { recursive: true });
  });
  // Its number is written once it listens.
  const pid = join(folder, "pid");
  await waitFor("nginx", () => child.exitCode !== null || (existsSync(pid) && readFileSync(pid, "utf8") !== ""));
  return child.exitCode === null ? port : undefined;
}
