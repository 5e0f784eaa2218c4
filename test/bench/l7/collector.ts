// Stands in for a collector of spans: takes OTLP over HTTP and keeps nothing. GET answers how many bodies and bytes came. `collector.ts PORT`.
import { createServer } from "node:http";

let posts = 0;
let bytes = 0;
createServer((request, response) => {
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  request.on("end", () => {
    if (request.method === "GET") {
      response.end(JSON.stringify({ posts, bytes }));
      return;
    }
    posts++;
    // An ExportTraceServiceResponse without a word: everything was taken.
    response.writeHead(200, { "content-type": "application/x-protobuf" }).end();
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
