// Small programs made of the HTTP/2 codec for tests: a server that answers, and a proxy between its server and its client half. A
// connection's failure is noted, so that a test can look for it.
import { createServer, type Server, type Socket } from "node:net";
import { systemClock } from "../../agent/base/clock.ts";
import type { Http2Handler } from "../../agent/forward/http2/events.ts";
import type { Http2Request, Http2Response } from "../../agent/forward/http2/head.ts";
import type { Http2Limits } from "../../agent/forward/http2/limits.ts";
import { Http2Socket, Turn } from "../../agent/forward/http2/socket.ts";
import type { Http2Stream } from "../../agent/forward/http2/stream.ts";
import type { HeaderList } from "../../agent/http.ts";

export interface Peer {
  readonly port: number;
  /** "reason code" of what was refused, in order. */
  readonly refused: string[];
  readonly open: Set<Http2Socket<Http2Request>>;
  close(): Promise<void>;
}

/** A handler that does nothing; tests override what they need. */
export class Idle<H extends Http2Request | Http2Response> implements Http2Handler<H> {
  onHead(_stream: Http2Stream, _head: H, _end: boolean): void {}
  onData(stream: Http2Stream, chunk: Buffer, _end: boolean): void {
    stream.consume(chunk.length);
  }
  onTrailers(_stream: Http2Stream, _fields: HeaderList, _sensitive: readonly string[] | null): void {}
  onEnd(_stream: Http2Stream): void {}
  onReset(_stream: Http2Stream, _code: number, _reason: string): void {}
  onDrain(_stream: Http2Stream): void {}
  onClose(_stream: Http2Stream): void {}
  onRefused(_reason: string, _code: number): void {}
  onGoaway(_last: number, _code: number): void {}
  onPong(): void {}
  onSettings(): void {}
  onDone(_code: number, _reason: string): void {}
}

export async function listen(take: (socket: Socket) => Http2Socket<Http2Request>, refused: string[]): Promise<Peer> {
  const open = new Set<Http2Socket<Http2Request>>();
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const bound = take(socket);
    open.add(bound);
    sockets.add(socket);
    socket.on("close", () => {
      open.delete(bound);
      sockets.delete(socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    refused,
    open,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** Answers GET with `body`, sends back what other methods bring, with their trailers. */
class Echo extends Idle<Http2Request> {
  private readonly refused: string[];
  private readonly body: Buffer;

  constructor(refused: string[], body: Buffer) {
    super();
    this.refused = refused;
    this.body = body;
  }
  override onHead(stream: Http2Stream, head: Http2Request, end: boolean): void {
    stream.owner = 0;
    if (head.method === "HEAD") stream.respond(200, ["content-length", String(this.body.length)], true);
    else if (head.method === "GET" || end) {
      stream.respond(200, ["content-type", "text/plain", "x-path", head.path], false);
      stream.sendData(Buffer.from(this.body), true);
    } else stream.respond(200, ["x-path", head.path], false);
  }
  override onData(stream: Http2Stream, chunk: Buffer, _end: boolean): void {
    if (stream.sendData(chunk, false)) stream.consume(chunk.length);
    else stream.owner = (stream.owner as number) + chunk.length;
  }
  override onDrain(stream: Http2Stream): void {
    stream.consume(stream.owner as number);
    stream.owner = 0;
  }
  override onTrailers(stream: Http2Stream, fields: HeaderList): void {
    stream.sendTrailers(fields);
  }
  override onEnd(stream: Http2Stream): void {
    stream.end();
  }
  override onRefused(reason: string, code: number): void {
    this.refused.push(`${reason} ${code}`);
  }
}

export function echoServer(
  options: { body?: Buffer; limits?: Http2Limits; extendedConnect?: boolean } = {},
): Promise<Peer> {
  const refused: string[] = [];
  const turn = new Turn();
  const handler = new Echo(refused, options.body ?? Buffer.from("hello\n"));
  return listen((socket) => {
    const bound = new Http2Socket<Http2Request>(
      {
        role: "server",
        handler,
        extendedConnect: options.extendedConnect === true,
        ...(options.limits === undefined ? {} : { limits: options.limits }),
      },
      turn,
      systemClock,
    );
    bound.attach(socket, true);
    return bound;
  }, refused);
}
