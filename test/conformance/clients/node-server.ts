// Server of the plan (plan.ts) with Node: HTTP/1.1 on 8080, HTTP/2 without TLS on 8081.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createServer2, type Http2ServerRequest, type Http2ServerResponse } from "node:http2";
import { patternOf } from "./plan.ts";

function answer(request: IncomingMessage | Http2ServerRequest, to: ServerResponse | Http2ServerResponse): void {
  const target = request.url ?? "/";
  const [, kind = "", value = ""] = target.split("/");
  // What both classes have in common is all of ServerResponse that is used here.
  const response = to as ServerResponse;
  const n = Number(value);
  if (kind === "bytes") response.writeHead(200, { "content-length": n }).end(patternOf(n));
  else if (kind === "status") response.writeHead(n).end();
  else if (kind.startsWith("back")) {
    response.setHeader("x-back", request.headers["x-there"] ?? target);
    response.end();
  } else if (kind === "chunks") {
    for (let i = 0; i < n; i++) response.write(patternOf(1000));
    response.end();
  } else if (kind === "sum") {
    const sum = createHash("sha256");
    let size = 0;
    request.on("data", (b: Buffer) => {
      size += b.length;
      sum.update(b);
    });
    request.on("end", () => response.end(`${request.method} ${size} ${sum.digest("hex")}`));
  } else if (kind === "hints") {
    const links = { link: "</a>; rel=preload" };
    if (to instanceof Object && "stream" in to && "additionalHeaders" in (to.stream as object))
      (to as Http2ServerResponse).stream.additionalHeaders({ ":status": 103, ...links });
    else response.writeEarlyHints(links);
    response.end("hinted");
  } else if (kind === "early") {
    response.writeHead(413).end("too much");
    request.resume();
  } else if (kind === "cut") {
    response.writeHead(200, { "content-length": 100_000 });
    response.write(patternOf(1000));
    setTimeout(
      () => (request instanceof Object && "stream" in request ? request.stream.close(2) : request.socket.destroy()),
      100,
    );
  } else response.writeHead(404).end();
}

createServer(answer).listen(8080, "::");
createServer2(answer)
  .on("sessionError", () => {})
  .listen(8081, "::");
