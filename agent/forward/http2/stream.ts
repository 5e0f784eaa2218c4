// One stream of an HTTP/2 connection: its state (RFC 9113 §5.1), its windows, and what its owner may do with it. Objects are used
// again for later streams of the connection, after onReset, onClose or `reset`.
import type { HeaderList } from "../../http.ts";

/** What a stream asks of its connection. */
export interface StreamHost {
  respond(
    stream: Http2Stream,
    status: number,
    fields: HeaderList,
    end: boolean,
    sensitive: readonly string[] | null,
  ): void;
  data(stream: Http2Stream, chunk: Buffer, end: boolean): boolean;
  trailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void;
  resetByOwner(stream: Http2Stream, code: number): void;
  consumed(stream: Http2Stream, bytes: number): void;
}

export class Http2Stream {
  /** 0 while the object serves no stream. */
  id = 0;
  /** The owner's own; the stream of the other side in a proxy, say. */
  owner: unknown = null;
  readonly host: StreamHost;

  /** Neither over nor reset. */
  live = false;
  /** END_STREAM came; END_STREAM is gathered; END_STREAM waits behind queued content. */
  remoteEnded = false;
  localEnded = false;
  endQueued = false;
  /** The final head came; it went. */
  headReceived = false;
  headSent = false;
  interim = 0;
  /** CONNECT, after a 2xx: content has no length and no trailers (§8.5). */
  tunnel = false;
  /** Method HEAD or CONNECT of our request. */
  headRequest = false;
  connectRequest = false;
  /** By Content-Length, still to come; -1: not said. */
  expected = -1;

  sendWindow = 0;
  receiveWindow = 0;
  /** Given to the owner and not consumed; consumed and not told to the peer. */
  unconsumed = 0;
  unreturned = 0;

  queue: Buffer[] = [];
  /** How much of the first chunk has gone. */
  queueAt = 0;
  queuedBytes = 0;
  queuedTrailers: HeaderList | null = null;
  queuedSensitive: readonly string[] | null = null;
  /** The owner was told to wait. */
  waiting = false;
  /** In the list of streams that could send if the connection could. */
  ready = false;
  next: Http2Stream | null = null;
  /** Next in its bucket of the connection's table. */
  chained: Http2Stream | null = null;

  constructor(host: StreamHost) {
    this.host = host;
  }

  start(id: number, sendWindow: number, receiveWindow: number): void {
    this.id = id;
    this.owner = null;
    this.live = true;
    this.remoteEnded = this.localEnded = this.endQueued = false;
    this.headReceived = this.headSent = false;
    this.interim = 0;
    this.tunnel = this.headRequest = this.connectRequest = false;
    this.expected = -1;
    this.sendWindow = sendWindow;
    this.receiveWindow = receiveWindow;
    this.unconsumed = this.unreturned = 0;
    this.waiting = false;
  }

  /** Serves nothing from now on. What is still in the list of ready ones is passed over there. */
  clear(): void {
    this.id = 0;
    this.live = false;
    this.owner = null;
    if (this.queue.length > 0) this.queue = [];
    this.queueAt = this.queuedBytes = 0;
    this.queuedTrailers = this.queuedSensitive = null;
    this.waiting = false;
  }

  /** Answers (server). A status below 200 is an interim answer; `end`: no content follows. Names in lower case, no connection fields. */
  respond(status: number, fields: HeaderList, end: boolean, sensitive: readonly string[] | null = null): void {
    if (this.id !== 0) this.host.respond(this, status, fields, end, sensitive);
  }

  /**
   * Sends content, or keeps it until the windows allow. False: enough is kept, wait for onDrain. A chunk of `referenceBytes` or more
   * belongs to the stream from now on.
   */
  sendData(chunk: Buffer, end: boolean): boolean {
    return this.id === 0 || this.host.data(this, chunk, end);
  }

  /** Ends our message with trailers, which go out after all content. */
  sendTrailers(fields: HeaderList, sensitive: readonly string[] | null = null): void {
    if (this.id !== 0) this.host.trailers(this, fields, sensitive);
  }

  /** Ends our message; does nothing if it has ended. */
  end(): void {
    if (this.id !== 0 && !this.localEnded && !this.endQueued) this.host.data(this, nothing, true);
  }

  /** Gives the stream up; no callback follows. */
  reset(code: number): void {
    if (this.id !== 0) this.host.resetByOwner(this, code);
  }

  /** The owner wants to hear no more of it; what was sent still goes out. What comes is consumed by the handler. */
  detach(): void {
    this.owner = null;
  }

  /** `bytes` of what onData brought are dealt with: the peer may send as many again. */
  consume(bytes: number): void {
    if (this.id !== 0) this.host.consumed(this, bytes);
  }
}

const nothing: Buffer = Buffer.alloc(0);
