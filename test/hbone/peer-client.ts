// A HBONE client that is not ours: Node's http2 over TLS. Started by native/tests/hbone with one scenario; reports in JSON lines.
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as tlsConnect } from "node:tls";
import { credentials, type PeerSettings, pattern, report, settings, sha256 } from "./settings.ts";

const { promise: known, resolve: learn } = Promise.withResolvers<unknown>();

interface Outcome {
  readonly status: number | undefined;
  readonly data: Buffer;
  /** The stream ended with END_STREAM (true) or was reset. */
  readonly ended: boolean;
  readonly code: number;
  readonly headers: Readonly<Record<string, unknown>>;
}

function open(s: PeerSettings): ClientHttp2Session {
  const host = s.host.includes(":") ? `[${s.host}]` : s.host;
  return connect(`https://${host}:${s.port}`, {
    ...credentials(s),
    ALPNProtocols: [...(s.alpn ?? ["h2"])],
    minVersion: "TLSv1.3",
    // Megabytes; the default would stop our own large streams.
    maxSessionMemory: 1000,
    // The name is a SPIFFE id, which is checked here against what the test expects.
    checkServerIdentity: (_, cert) => {
      report({ event: "server", san: cert.subjectaltname });
      return undefined;
    },
  });
}

function request(session: ClientHttp2Session, s: PeerSettings): ClientHttp2Stream {
  const method = s.method ?? "CONNECT";
  const rest = method === "CONNECT" ? {} : { ":path": "/" };
  return session.request(
    { ":method": method, ":authority": s.authority ?? "", ...rest, ...s.headers },
    { endStream: method !== "CONNECT" },
  );
}

function outcome(stream: ClientHttp2Stream): Promise<Outcome> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let status: number | undefined;
    let headers: Readonly<Record<string, unknown>> = {};
    let ended = false;
    stream.on("response", (h) => {
      status = h[":status"];
      headers = h;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      ended = true;
    });
    stream.on("error", () => {});
    stream.on("close", () =>
      resolve({
        status,
        data: Buffer.concat(chunks),
        ended: ended && stream.rstCode === 0,
        code: stream.rstCode,
        headers,
      }),
    );
  });
}

/** Many streams at once, each with data of its own, half-closed by us first; the answers are compared by hash. */
async function echo(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  let wrong = 0;
  let bytes = 0;
  const one = async (i: number): Promise<void> => {
    const data = pattern(i, s.bytes ?? 1000);
    const stream = request(session, s);
    const done = outcome(stream);
    stream.end(data);
    const got = await done;
    bytes += got.data.length;
    if (got.status !== 200 || !got.ended || sha256(got.data) !== sha256(data)) wrong++;
  };
  const waiting = Array.from({ length: s.streams ?? 1 }, (_, i) => i);
  const lane = async (): Promise<void> => {
    for (let i = waiting.pop(); i !== undefined; i = waiting.pop()) await one(i);
  };
  // As many at once as the server says it takes.
  await known;
  const limit = Math.min(session.remoteSettings.maxConcurrentStreams ?? 100, 100);
  await Promise.all(Array.from({ length: limit }, lane));
  report({ event: "done", wrong, bytes, limit });
}

/** One stream: what came back. With `bytes` 0 our side ends at once. */
async function single(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  const stream = request(session, s);
  const done = outcome(stream);
  if ((s.method ?? "CONNECT") === "CONNECT") stream.end(pattern(1, s.bytes ?? 0));
  const got = await done;
  report({
    event: "done",
    status: got.status,
    ended: got.ended,
    code: got.code,
    bytes: got.data.length,
    hash: sha256(got.data),
    text: got.data.subarray(0, 200).toString("latin1"),
    headers: got.headers,
  });
}

/** One request of HTTP/1.1 in a stream, with so many bytes as its body; what came back, and the hash of its body. */
async function http(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  const stream = request(session, s);
  const done = outcome(stream);
  stream.write(s.head ?? "", "latin1");
  stream.write(pattern(1, s.bytes ?? 0));
  // Ends when its server has: a request is not half-closed.
  stream.on("end", () => stream.end());
  const { status, data } = await done;
  const at = data.indexOf("\r\n\r\n");
  const body = data.subarray(at + 4);
  report({ event: "done", status, head: data.toString("latin1", 0, at), bytes: body.length, hash: sha256(body) });
}

/** Sends, then resets, so that the application must see RST. */
async function reset(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  const stream = request(session, s);
  const done = outcome(stream);
  stream.write(pattern(1, s.bytes ?? 10));
  await new Promise((resolve) => stream.once("response", resolve));
  await sleep(100);
  // Not close(): that would end the stream in order just before it resets it.
  stream.destroy(new Error("reset by the test"));
  const got = await done;
  report({ event: "done", status: got.status, code: got.code });
}

/** Opens and resets without waiting, until the server has had enough. */
async function rapidReset(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  let goaway: number | undefined;
  session.on("goaway", (code) => {
    goaway = code;
  });
  for (let i = 0; i < (s.streams ?? 2000) && !session.closed && !session.destroyed; i++) {
    const stream = request(session, s);
    stream.on("error", () => {});
    stream.close(8);
    if (i % 20 === 19) await sleep(2);
  }
  await sleep(1000);
  report({ event: "done", goaway });
}

/** Keeps one stream open until the server's GOAWAY, then shows that the stream still works. */
async function goaway(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  const stream = request(session, s);
  const done = outcome(stream);
  const gone = new Promise<number>((resolve) => session.once("goaway", resolve));
  stream.write(pattern(1, 500));
  report({ event: "open" });
  const code = await gone;
  report({ event: "goaway", code });
  await sleep(s.delay ?? 0);
  stream.end(pattern(2, 500));
  const got = await done;
  report({ event: "done", status: got.status, ended: got.ended, bytes: got.data.length });
}

/** One stream whose data we do not read, and others beside it that must not suffer. */
async function slowReader(session: ClientHttp2Session, s: PeerSettings): Promise<void> {
  const stuck = request(session, s);
  stuck.on("error", () => {});
  stuck.write(pattern(1, 100));
  await sleep(300);
  await echo(session, s);
  stuck.close(8);
}

const scenarios: Readonly<Record<string, (session: ClientHttp2Session, s: PeerSettings) => Promise<void>>> = {
  echo,
  single,
  http,
  reset,
  rapidReset,
  goaway,
  slowReader,
};

/** TLS alone, for what http2 would not offer. */
function plainTls(s: PeerSettings): void {
  const socket = tlsConnect({
    host: s.host,
    port: s.port,
    ...credentials(s),
    ALPNProtocols: [...(s.alpn ?? [])],
    ...(s.version === undefined ? {} : { minVersion: s.version, maxVersion: s.version }),
    checkServerIdentity: () => undefined,
  });
  socket.on("error", (error: NodeJS.ErrnoException) => report({ event: "error", code: error.code }));
  socket.on("close", () => report({ event: "done" }));
}

// Ends with the test that started it: its end of this pipe closes.
process.stdin.on("end", () => process.exit(0)).resume();
const s = settings();
if (s.scenario === "tls") plainTls(s);
else await run(open(s));

async function run(session: ClientHttp2Session): Promise<void> {
  session.once("remoteSettings", learn);
  session.on("error", (error: NodeJS.ErrnoException) => {
    report({ event: "error", code: error.code, message: error.message });
    process.exit(0);
  });
  const scenario = scenarios[s.scenario];
  if (scenario === undefined) throw new Error(`no scenario ${s.scenario}`);
  // The session stays open: a close could cut what the other side has not read yet.
  await scenario(session, s);
}
