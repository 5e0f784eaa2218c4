// An HTTP/2 server of the codec as a program, for suites that are programs themselves (h2spec): http2-serve.ts prints its port.
import { echoServer } from "./http2-peers.ts";

const peer = await echoServer();
console.log(peer.port);
process.on("SIGTERM", () => void peer.close().then(() => console.log(peer.refused.join("\n"))));
