// One request at a time of HTTP/1.1, HTTP/2 and gRPC on connections that are kept, for a load that judges each answer: whole, of the right status, with the
// bytes that were sent. With churn, connections are ended or reset after a while and some requests are given up.
import { Agent, request } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2, constants } from "node:http2";
import { connect } from "node:net";
import type { Readable } from "node:stream";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { same } from "./grpc-bytes.ts";
import { path as grpcPath } from "./grpc-echo.ts";

export interface Asked {
  /** Why it is not what it should be. */
  readonly failed?: string;
  /** By this client, on purpose. */
  readonly givenUp?: boolean;
  /**
   * No server began it (REFUSED_STREAM, above the last stream of GOAWAY; RFC 9113 §8.7), so it may be asked again. Node says the same of
   * streams of its own that it had not written when a GOAWAY came, whatever that one promised.
   */
  readonly isUnsent?: boolean;
  readonly server?: string;
}
export interface MixedAsker {
  readonly kind: string;
  /** `over` is called once. */
  ask(n: number, over: (asked: Asked) => void): void;
  /** Connections opened since the last call. */
  takeOpened(): number;
}

const patienceMs = 20_000;
const longBytes = 300_000;
/** Every so many requests with churn: given up by the client; its connection closed in order; a connection opened and reset; one that a policy denies. */
const every = { givenUp: 401, closed: 97, reset: 499, denied: 101 } as const;
const isTurn = (churns: boolean, n: number, of: number): boolean => churns && n % of === of - 1;

interface Plan {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body: Buffer | undefined;
  readonly givesUp: boolean;
}
function planOf(n: number, churns: boolean): Plan {
  const method = n % 2 === 0 ? "GET" : "POST";
  const isDenied = isTurn(churns, n, every.denied);
  const path = isDenied ? "/denied" : n % 50 === 7 ? "/slow" : n % 50 === 9 ? "/long" : "/";
  const body = method === "POST" ? Buffer.alloc(1 + ((n * 37) % 900), n % 251) : undefined;
  return { method, path, body, givesUp: isTurn(churns, n, every.givenUp) };
}

/** Calls the first time only. */
const once = (over: (asked: Asked) => void): ((asked: Asked) => void) => {
  let isOver = false;
  return (asked) => {
    if (isOver) return;
    isOver = true;
    over(asked);
  };
};

function judge({ method, path, body }: Plan, code: number, { text, bytes }: ReturnType<typeof gather>): Asked {
  const what = `${method} ${path}`;
  if (path === "/denied") return code === 403 ? {} : { failed: `${what}: ${code} instead of 403` };
  if (code !== 200) return { failed: `${what}: ${code} ${text.slice(0, 120)}` };
  const [server = "", got = ""] = text.split(" ", 2);
  if (Number(got) !== (body?.length ?? 0)) return { failed: `${what}: the server got ${got} bytes`, server };
  if (path === "/long" && bytes < longBytes) return { failed: `${what}: ${bytes} bytes of a long answer`, server };
  return { server };
}

/** Connections opened since they were last asked for. */
class Openings {
  #count = 0;
  add(): void {
    this.#count++;
  }
  readonly take = (): number => {
    const count = this.#count;
    this.#count = 0;
    return count;
  };
}

/** How long an answer is so far, and how it begins. */
function gather(answer: Readable): { bytes: number; text: string } {
  const got = { bytes: 0, text: "" };
  answer.on("data", (chunk: Buffer) => {
    got.bytes += chunk.length;
    if (got.text.length < 256) got.text += chunk.toString("latin1", 0, 256);
  });
  return got;
}

/** A connection that says nothing of use and is reset. */
function resetOne(host: string, port: number, said: string | Buffer): void {
  const socket = connect({ host, port });
  socket.on("error", () => {});
  socket.once("connect", () => {
    socket.write(said);
    setTimeout(() => socket.resetAndDestroy(), 20);
  });
}

export function http1Asker(host: string, churns: boolean): MixedAsker {
  const agent = new Agent({ keepAlive: true, maxSockets: 32, scheduling: "fifo" });
  const known = new WeakSet<object>();
  const opened = new Openings();
  return {
    kind: "http1",
    takeOpened: opened.take,
    ask(n, told) {
      const over = once(told);
      const plan = planOf(n, churns);
      const { method, path, body, givesUp } = plan;
      if (isTurn(churns, n, every.reset)) resetOne(host, 80, "GET / HTTP/1.1\r\nhost: web\r\n");
      const headers = isTurn(churns, n, every.closed) ? { connection: "close" } : {};
      const asked = request({ host, path, method, agent, headers, timeout: patienceMs }, (answer) => {
        const got = gather(answer);
        answer.on("error", (error) => over({ failed: `${method} ${path}: answer cut: ${error.message}` }));
        answer.on("end", () => over(judge(plan, answer.statusCode ?? 0, got)));
      });
      asked.on("socket", (socket) => {
        if (known.has(socket)) return;
        known.add(socket);
        opened.add();
      });
      asked.on("timeout", () => asked.destroy(new Error("no answer in time")));
      asked.on("error", (error: NodeJS.ErrnoException) =>
        over({ failed: `${method} ${path}: ${error.code ?? error.message}` }),
      );
      asked.end(body);
      if (givesUp) {
        over({ givenUp: true });
        setTimeout(() => asked.destroy(), n % 5);
      }
    },
  };
}

export function http2Asker(host: string, churns: boolean): MixedAsker {
  const many = 4;
  const sessions: (ClientHttp2Session | undefined)[] = new Array(many).fill(undefined);
  const opened = new Openings();
  const sessionOf = (at: number): ClientHttp2Session => {
    const kept = sessions[at];
    if (kept !== undefined && !kept.closed && !kept.destroyed) return kept;
    const session = connectHttp2(`http://${host}:81`);
    opened.add();
    sessions[at] = session;
    const gone = (): void => {
      if (sessions[at] === session) sessions[at] = undefined;
    };
    session.on("goaway", gone).on("close", gone);
    // Its streams hear of it too.
    session.on("error", gone);
    return session;
  };
  return {
    kind: "http2",
    takeOpened: opened.take,
    ask(n, told) {
      const over = once(told);
      const plan = planOf(n, churns);
      const { method, path, body, givesUp } = plan;
      const at = n % many;
      const session = sessionOf(at);
      const stream = session.request(
        { ":method": method, ":path": path, ":authority": host },
        { endStream: body === undefined },
      );
      let code = 0;
      stream.setTimeout(patienceMs, () => {
        over({ failed: `${method} ${path}: no answer in time` });
        stream.close(constants.NGHTTP2_CANCEL);
      });
      stream.on("response", (head) => {
        code = Number(head[":status"]);
      });
      const got = gather(stream);
      stream.on("end", () => {
        if (code > 0) over(judge(plan, code, got));
      });
      stream.on("error", (error) => {
        const isUnsent = stream.rstCode === constants.NGHTTP2_REFUSED_STREAM;
        // What follows goes over another connection.
        if (isUnsent && sessions[at] === session) sessions[at] = undefined;
        over(isUnsent ? { isUnsent } : { failed: `${method} ${path}: ${error.message}` });
      });
      stream.on("close", () => over({ failed: `${method} ${path}: closed with ${stream.rstCode}` }));
      if (body !== undefined) stream.end(body);
      if (givesUp) {
        over({ givenUp: true });
        setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), n % 5);
      }
      if (isTurn(churns, n, every.closed)) {
        sessions[at] = undefined;
        // Not at once: Node refuses its own streams that have not gone out yet.
        setTimeout(() => session.close(), 1000);
      }
      if (isTurn(churns, n, every.reset)) resetOne(host, 81, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    },
  };
}

const callKinds = ["One", "One", "One", "One", "One", "Many", "Sum", "Chat"] as const;
const message = Buffer.alloc(200, "m");

export function grpcAsker(host: string, churns: boolean): MixedAsker {
  let client: Client | undefined;
  const opened = new Openings();
  const clientNow = (): Client => {
    if (client === undefined) {
      // A pool of its own for each, so that a new client is a new connection.
      client = new Client(`${host}:82`, credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
      opened.add();
    }
    return client;
  };
  return {
    kind: "grpc",
    takeOpened: opened.take,
    ask(n, told) {
      const over = once(told);
      const kind = callKinds[n % callKinds.length] as (typeof callKinds)[number];
      const options = { deadline: Date.now() + patienceMs };
      const head = new Metadata();
      const made = clientNow();
      let got = 0;
      let server = "";
      const take = (m: Buffer | undefined): void => {
        if (m !== undefined) got++;
      };
      const done = (_error: unknown, m: Buffer | undefined): void => take(m);
      const expected = kind === "Many" || kind === "Chat" ? 3 : 1;
      const path = grpcPath(kind);
      const call =
        kind === "One"
          ? made.makeUnaryRequest(path, same, same, message, head, options, done)
          : kind === "Many"
            ? made.makeServerStreamRequest(path, same, same, Buffer.from("3"), head, options).on("data", take)
            : kind === "Sum"
              ? made.makeClientStreamRequest(path, same, same, head, options, done)
              : made.makeBidiStreamRequest(path, same, same, head, options).on("data", take);
      call.on("error", () => {});
      call.on("metadata", (answered: Metadata) => {
        server = String(answered.get("x-pod")[0] ?? "");
      });
      call.on("status", (ended) =>
        // The message of a unary call comes after its status.
        setImmediate(() => {
          if (ended.details.includes("NGHTTP2_REFUSED_STREAM")) over({ isUnsent: true });
          else if (ended.code !== status.OK)
            over({ failed: `${kind}: ${ended.code} ${ended.details.slice(0, 120)}`, server });
          else if (got !== expected) over({ failed: `${kind}: ${got} messages`, server });
          else over({ server });
        }),
      );
      if (kind === "Sum" || kind === "Chat") {
        const writing = call as unknown as { write(m: Buffer): void; end(): void };
        for (let i = 0; i < 3; i++) writing.write(message);
        writing.end();
      }
      if (isTurn(churns, n, every.givenUp)) {
        over({ givenUp: true });
        setTimeout(() => call.cancel(), n % 5);
      }
      if (isTurn(churns, n, every.closed * 3)) {
        client = undefined;
        // Calls that are under way end first.
        setTimeout(() => made.close(), patienceMs);
      }
    },
  };
}
