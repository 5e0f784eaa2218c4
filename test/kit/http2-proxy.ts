// A reverse proxy between the server half and the client half of the HTTP/2 codec, as small as it can be: heads, content, trailers and
// resets pass unchanged, back-pressure passes through the windows. One upstream connection, opened at the start.
import { connect } from "node:net";
import { systemClock } from "../../agent/base/clock.ts";
import type { Http2Request, Http2Response } from "../../agent/forward/http2/head.ts";
import { Http2Socket, Turn } from "../../agent/forward/http2/socket.ts";
import type { Http2Stream } from "../../agent/forward/http2/stream.ts";
import type { HeaderList } from "../../agent/http.ts";
import { Idle, listen, type Peer } from "./http2-peers.ts";

const unavailable = 503;

/** What both sides of a stream do alike: `owner` is the stream of the other side, `held` what that one could not send yet. */
class Passing<H extends Http2Request | Http2Response> extends Idle<H> {
  readonly held = new Map<Http2Stream, number>();

  override onData(stream: Http2Stream, chunk: Buffer, end: boolean): void {
    const other = stream.owner as Http2Stream | null;
    if (other === null || other.sendData(chunk, end)) stream.consume(chunk.length);
    else this.held.set(stream, (this.held.get(stream) ?? 0) + chunk.length);
  }
  override onTrailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void {
    (stream.owner as Http2Stream | null)?.sendTrailers(fields, sensitive);
  }
  override onEnd(stream: Http2Stream): void {
    (stream.owner as Http2Stream | null)?.end();
  }
  override onDrain(stream: Http2Stream): void {
    const other = stream.owner as Http2Stream | null;
    if (other !== null) this.release(other);
  }
  release(_other: Http2Stream): void {}
  give(stream: Http2Stream): void {
    stream.consume(this.held.get(stream) ?? 0);
    this.held.delete(stream);
  }
  override onReset(stream: Http2Stream, code: number, _reason: string): void {
    const other = stream.owner as Http2Stream | null;
    this.held.delete(stream);
    if (other === null) return;
    other.owner = null;
    other.reset(code);
  }
  override onClose(stream: Http2Stream): void {
    const other = stream.owner as Http2Stream | null;
    this.held.delete(stream);
    if (other !== null) other.owner = null;
  }
}

class Up extends Passing<Http2Response> {
  down: Passing<Http2Request> | null = null;
  override onHead(stream: Http2Stream, head: Http2Response, end: boolean): void {
    (stream.owner as Http2Stream | null)?.respond(head.status, head.headers(), end, head.sensitive);
  }
  override release(other: Http2Stream): void {
    this.down?.give(other);
  }
}

class Down extends Passing<Http2Request> {
  private readonly up: Http2Socket<Http2Response>;
  private readonly upHandler: Up;
  private readonly refused: string[];

  constructor(up: Http2Socket<Http2Response>, upHandler: Up, refused: string[]) {
    super();
    this.up = up;
    this.upHandler = upHandler;
    this.refused = refused;
  }
  override onHead(stream: Http2Stream, head: Http2Request, end: boolean): void {
    const fields = head.headers();
    const other = this.up.connection.request(head, fields, end, stream, head.sensitive, head.protocol);
    stream.owner = other;
    if (other === null) stream.respond(unavailable, [], true);
  }
  override release(other: Http2Stream): void {
    this.upHandler.give(other);
  }
  override onRefused(reason: string, code: number): void {
    this.refused.push(`${reason} ${code}`);
  }
}

export async function proxyTo(port: number): Promise<Peer & { readonly up: Http2Socket<Http2Response> }> {
  const turn = new Turn();
  const refused: string[] = [];
  const upHandler = new Up();
  const up = new Http2Socket<Http2Response>({ role: "client", handler: upHandler }, turn, systemClock);
  const upstream = connect({ port, host: "127.0.0.1", noDelay: true, onread: up.onread() });
  up.attach(upstream, false);
  await new Promise<void>((resolve, reject) => upstream.once("connect", resolve).once("error", reject));
  const down = new Down(up, upHandler, refused);
  upHandler.down = down;
  const peer = await listen((socket) => {
    const bound = new Http2Socket<Http2Request>(
      { role: "server", handler: down, extendedConnect: true },
      turn,
      systemClock,
    );
    bound.attach(socket, true);
    return bound;
  }, refused);
  return {
    ...peer,
    up,
    close: async () => {
      upstream.destroy();
      await peer.close();
    },
  };
}
