// A program in a pod that serves HTTP/1.1 on 8080, HTTP/2 without TLS on 8081 and gRPC on 8082. It ends as usual servers do: on SIGTERM it takes nothing new and
// finishes the rest. Argument: its name, which it says in every answer.
import { createServer as createHttp1, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createHttp2, type Http2ServerRequest, type Http2ServerResponse } from "node:http2";
import { grpcServer } from "./grpc-echo.ts";

const [name = ""] = process.argv.slice(2);

/** The name, the length of what it got, and what was asked for: /slow takes its time, /long is long. */
function answer(
  request: IncomingMessage | Http2ServerRequest,
  response: Pick<ServerResponse | Http2ServerResponse, "end">,
): void {
  let bytes = 0;
  const say = (more: string): void => void (response.end as (text: string) => void)(`${name} ${bytes} ${more}`);
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  request.on("end", () => {
    if (request.url === "/slow") setTimeout(say, 150, "slow");
    else if (request.url === "/long") say("x".repeat(300_000));
    else say("ok");
  });
  request.on("error", () => {});
}

const http1 = createHttp1(answer).listen(8080, "::");
const http2 = createHttp2(answer).listen(8081, "::");
const sessions = new Set<{ close(): void }>();
http2.on("session", (session) => {
  sessions.add(session);
  session.once("close", () => sessions.delete(session));
});
const grpc = await grpcServer("[::]:8082", name);

process.on("SIGTERM", () => {
  // close() of a session sends GOAWAY and lets streams end.
  for (const session of sessions) session.close();
  const ended = [http1, http2].map((server) => new Promise((resolve) => server.close(resolve)));
  void Promise.all([...ended, grpc.drain()]).then(() => process.exit(0));
});
