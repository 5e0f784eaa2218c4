// A connection as native hands it to a data thread, for tests that need one.
import type { HandedSocket } from "../../agent/threads.ts";

/** An outbound one of edge/client to port 80 of a Service, with an upstream chosen; `fd` is a number and nothing more. */
export const handedSocket = (more: Partial<HandedSocket> = {}): HandedSocket => ({
  event: "socket",
  fd: 3,
  id: 7,
  tunnel: "plain",
  direction: "outbound",
  pod: "edge/client",
  original: { ip: "10.96.0.7", port: 80 },
  source: { ip: "10.244.1.5", port: 40_000 },
  upstream: { ip: "10.244.2.9", port: 8080, mode: "plain", index: 0 },
  planId: 5,
  verdictId: 0,
  ...more,
});
