// A HBONE server that is not ours: Node's http2 over TLS. Started by native/tests/hbone; it echoes what CONNECT streams
// bring, or misbehaves as its scenario says, and reports every stream as a JSON line.
import { createSecureServer, type Http2Session, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { type AddressInfo, connect } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import { credentials, report, settings } from "./settings.ts";

const s = settings();
const tls = {
  ...credentials(s),
  requestCert: true,
  rejectUnauthorized: true,
  minVersion: "TLSv1.3" as const,
  ALPNProtocols: [...(s.alpn ?? ["h2"])],
};

function onStream(session: Http2Session, stream: ServerHttp2Stream, headers: IncomingHttpHeaders, count: number): void {
  stream.on("error", () => {});
  stream.on("close", () => report({ event: "closed", code: stream.rstCode }));
  const socket = session.socket as TLSSocket;
  report({
    event: "stream",
    method: headers[":method"],
    authority: headers[":authority"],
    path: headers[":path"],
    scheme: headers[":scheme"],
    client: socket.getPeerCertificate().subjectaltname,
    from: socket.remotePort,
    address: socket.remoteAddress,
  });
  switch (s.scenario) {
    case "status":
      stream.respond({ ":status": s.status ?? 403 }, { endStream: true });
      return;
    case "silent":
      return;
    case "reset":
      stream.respond({ ":status": 200 });
      // Not close(): that would end the stream in order just before it resets it.
      stream.once("data", () => stream.destroy(new Error("reset by the test")));
      return;
    case "bulk":
      // Sends first and ends; what the client sends is swallowed.
      stream.respond({ ":status": 200 });
      stream.end(Buffer.alloc(s.bytes ?? 1 << 20, 0x61));
      stream.resume();
      return;
    case "forward": {
      const socket = connect({ port: s.to ?? 0, host: "127.0.0.1", allowHalfOpen: true });
      socket.on("error", () => stream.close());
      stream.respond({ ":status": 200 });
      stream.pipe(socket).pipe(stream);
      return;
    }
    case "goaway":
      stream.respond({ ":status": 200 });
      stream.pipe(stream);
      // The first stream of every connection makes it go away; the stream itself goes on.
      if (count === 1) setTimeout(() => session.goaway(0), 50);
      return;
    default:
      stream.respond({ ":status": 200 });
      stream.pipe(stream);
  }
}

if (s.scenario === "not-h2") {
  // Speaks TLS with another ALPN, or none.
  const server = createServer(tls, (socket) => socket.on("error", () => {}));
  server.on("tlsClientError", (error) => report({ event: "tls", message: error.message }));
  server.listen(s.port, s.host, () => report({ event: "listening", port: (server.address() as AddressInfo).port }));
} else {
  const server = createSecureServer({
    ...tls,
    allowHTTP1: false,
    maxSessionMemory: 1000,
    settings: s.maxStreams === undefined ? {} : { maxConcurrentStreams: s.maxStreams },
  });
  server.on("session", (session) => {
    report({ event: "session" });
    let count = 0;
    session.on("error", () => {});
    session.on("close", () => report({ event: "session-closed" }));
    session.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) =>
      onStream(session, stream, headers, ++count),
    );
  });
  server.on("tlsClientError", (error) => report({ event: "tls", message: error.message }));
  server.on("sessionError", () => {});
  server.listen(s.port, s.host, () => report({ event: "listening", port: (server.address() as AddressInfo).port }));
}
// Ends with the test that started it: its end of this pipe closes.
process.stdin.on("end", () => process.exit(0)).resume();
