// Runs in a pod: `node traffic-server.ts --port 7000 [--greet 7001] [--sink 7002]`. Answers the traffic client and checks every byte that it sends.
// --greet: a port that speaks first (as MySQL does). --sink: a port that echoes any bytes back and half closes after the client did.
import { createHash } from "node:crypto";
import { createServer, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { Checker, decodeHead, HEAD_BYTES, type Head, sendAll } from "./traffic-wire.ts";

const counts = { connections: 0, open: 0, whole: 0, broken: 0, resets: 0, faults: [] as string[] };
const fault = (text: string): void => {
  counts.broken++;
  if (counts.faults.length < 20) counts.faults.push(text);
};

function serve(socket: Socket): void {
  counts.connections++;
  counts.open++;
  let head: Head | undefined;
  let pending: Buffer = Buffer.alloc(0);
  let take: (chunk: Buffer) => void = () => undefined;
  let ended: () => void = () => void socket.end(); // nothing was said: a probe
  let settled = false;
  const settle = (whole: boolean, text: string): void => {
    if (settled) return;
    settled = true;
    if (whole) counts.whole++;
    else fault(text);
  };
  socket.setNoDelay(true);
  socket.on("error", (e: NodeJS.ErrnoException) => {
    counts.resets++;
    if (head !== undefined && head.order !== "idle") settle(false, `${head.order}: ${e.code}`);
  });
  socket.on("close", () => {
    counts.open--;
  });
  socket.on("end", () => ended());
  socket.on("data", (chunk: Buffer) => {
    if (head !== undefined) return take(chunk);
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    if (pending.length < HEAD_BYTES) return;
    head = decodeHead(pending);
    if (head === undefined) {
      fault(`no head: ${pending.subarray(0, 16).toString("hex")}`);
      socket.destroy();
      return;
    }
    const rest = pending.subarray(HEAD_BYTES);
    ({ take, ended } = conversation(socket, head, settle));
    if (rest.length > 0) take(rest);
  });
}

interface Side {
  readonly take: (chunk: Buffer) => void;
  readonly ended: () => void;
}

function conversation(socket: Socket, head: Head, settle: (whole: boolean, text: string) => void): Side {
  const { order, seed, up, down } = head;
  if (order === "stats") {
    socket.end(JSON.stringify(counts));
    return { take: () => undefined, ended: () => undefined };
  }
  if (order === "idle") return idle(socket);
  const checker = new Checker(seed, "up", up);
  if (order === "server-fin" || order === "both") void sendAll(socket, seed, "down", down, true);
  let answered = false;
  const answer = (end: boolean): void => {
    if (answered) return;
    answered = true;
    void sendAll(socket, seed, "down", checker.whole ? down : 0, end || !checker.whole);
  };
  if (order === "request" && up === 0) answer(false);
  return {
    take: (chunk) => {
      checker.take(chunk);
      if (order === "request" && checker.received >= up) answer(false);
    },
    ended: () => {
      settle(checker.whole, `${order}: ${checker.fault}`);
      if (order === "client-fin") answer(true);
      else if (order === "request") socket.end();
    },
  };
}

/** Each round of 32 bytes is answered by the hash over everything that ever came on this connection: a lost or foreign byte shows for good. */
function idle(socket: Socket): Side {
  let chain = Buffer.alloc(32);
  let pending: Buffer = Buffer.alloc(0);
  return {
    take: (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      for (; pending.length >= 32; pending = pending.subarray(32)) {
        chain = createHash("sha256").update(chain).update(pending.subarray(0, 32)).digest();
        socket.write(chain);
      }
    },
    ended: () => void socket.end(),
  };
}

const { values } = parseArgs({
  options: {
    port: { type: "string", default: "7000" },
    greet: { type: "string" },
    sink: { type: "string" },
    host: { type: "string", default: "::" },
  },
});
const listen = (port: string, onSocket: (s: Socket) => void): void => {
  createServer({ allowHalfOpen: true, noDelay: true }, onSocket).listen({
    port: Number(port),
    host: values.host,
    backlog: 4096,
  });
};
listen(values.port, serve);
if (values.greet !== undefined) {
  listen(values.greet, (socket) => {
    socket.on("error", () => undefined);
    socket.end("hello from the server\n");
  });
}
if (values.sink !== undefined) {
  listen(values.sink, (socket) => {
    socket.on("error", () => undefined);
    socket.pipe(socket);
  });
}
