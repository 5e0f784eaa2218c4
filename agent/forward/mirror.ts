// Copies of a request to other servers (Gateway API HTTPRequestMirrorFilter): sent beside it, answers thrown away. A copy holds nothing up:
// what its server does not take soon enough is given up.
import type { HeaderList, RequestHead } from "../http.ts";
import type { RequestCopies } from "./http1/exchange.ts";
import type { PoolLink } from "./http1/links.ts";
import type { Sweep, Swept } from "./http1/sweep.ts";
import type { RequestRewrite } from "./http1/write.ts";
import { errorCode } from "./http2/codes.ts";
import { kind, kindOf } from "./http2/fields.ts";
import { Http2Request } from "./http2/head.ts";
import { Http1Stream, type Http1StreamOwner } from "./http2/http1-stream.ts";
import type { StreamConnection, StreamTaker, UpHead, UpStream } from "./http2/stream-links.ts";
import { editedFields } from "./http2/translate.ts";

export interface MirrorLimits {
  /** Of a body, bytes that wait for a copy's server. */
  readonly mostBytes: number;
  /** For all of it, ms. */
  readonly timeoutMs: number;
}
export const defaultMirrorLimits: MirrorLimits = { mostBytes: 256 * 1024, timeoutMs: 15_000 };

/** How a copy ended: "answered", or what was in its way; "cut_off": its request broke off, or was answered before it was whole. */
export type MirrorEnd = "answered" | "too_slow" | "timeout" | "failed" | "cut_off";

/** Copies of one request, one for each pool. The head is used up during the call. */
export function copiesOf(
  pools: readonly PoolLink[],
  head: RequestHead,
  rewrite: RequestRewrite,
  times: Sweep,
  ended: (how: MirrorEnd) => void,
  limits = defaultMirrorLimits,
): RequestCopies {
  const own = ownHead(head);
  const copies = pools.map((pool) => new MirroredRequest(pool, own, rewrite, times, ended, limits));
  return {
    begin: (isBodiless) => copies.forEach((copy) => void copy.begin(isBodiless)),
    data: (chunk) => copies.forEach((copy) => void copy.data(chunk)),
    end: () => copies.forEach((copy) => void copy.end()),
    cut: () => copies.forEach((copy) => void copy.cut()),
  };
}

const dropped: ReadonlySet<number> = new Set([kind.hop, kind.te, kind.host, kind.badName]);

/** A head that may be kept, without what concerns one connection only. */
function ownHead(head: RequestHead): Http2Request {
  const fields: string[] = [];
  const named = (head.header("connection") ?? "").toLowerCase().split(/[ ,\t]+/);
  const all: HeaderList = head.headers();
  for (let i = 0; i < all.length; i += 2) {
    const name = all[i] as string;
    if (name === "host" || name === "expect" || dropped.has(kindOf(name)) || named.includes(name)) continue;
    fields.push(name, all[i + 1] as string);
  }
  const length = head.header("content-length");
  const { method, scheme, authority, path } = head;
  const contentLength = length === undefined ? -1 : Number(length);
  return new Http2Request({ fields, sensitive: null, contentLength, method, scheme, authority, path, protocol: "" });
}

class MirroredRequest implements Http1StreamOwner, StreamTaker, Swept {
  turn = 0;
  readonly #pool: PoolLink;
  readonly #head: Http2Request;
  readonly #rewrite: RequestRewrite;
  readonly #times: Sweep;
  readonly #tell: (how: MirrorEnd) => void;
  readonly #limits: MirrorLimits;
  #up: UpStream | undefined;
  #joining: Http1Stream | undefined;
  /** Not sent yet. */
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #isBlocked = false;
  #isWhole = false;
  #isOver = false;
  #untilMs = 0;

  constructor(
    pool: PoolLink,
    head: Http2Request,
    rewrite: RequestRewrite,
    times: Sweep,
    tell: (how: MirrorEnd) => void,
    limits: MirrorLimits,
  ) {
    this.#pool = pool;
    this.#head = head;
    this.#rewrite = rewrite;
    this.#times = times;
    this.#tell = tell;
    this.#limits = limits;
  }

  begin(isBodiless: boolean): void {
    this.#isWhole = isBodiless;
    this.#untilMs = this.#times.now + this.#limits.timeoutMs;
    this.#times.add(this);
    const { streams } = this.#pool;
    if (streams !== undefined) {
      const connection = streams.connection(this, false);
      if (connection !== undefined) this.opened(connection);
      return;
    }
    this.#joining = new Http1Stream(this, this.#pool, this.#head, this.#rewrite, isBodiless);
    this.#joining.open(false, false);
  }

  data(chunk: Buffer): void {
    if (this.#isOver || chunk.length === 0) return;
    this.#waitingBytes += chunk.length;
    if (this.#waitingBytes > this.#limits.mostBytes) {
      this.#giveUp("too_slow");
      return;
    }
    this.#waiting.push(Buffer.from(chunk));
    this.#send();
  }

  end(): void {
    if (this.#isOver || this.#isWhole) return;
    this.#isWhole = true;
    this.#send();
  }

  cut(): void {
    if (!this.#isWhole) this.#giveUp("cut_off");
  }

  #send(): void {
    const up = this.#up;
    if (up === undefined || this.#isBlocked) return;
    for (let chunk = this.#waiting.shift(); chunk !== undefined; chunk = this.#waiting.shift()) {
      this.#waitingBytes -= chunk.length;
      this.#isBlocked = !up.sendData(chunk, this.#isWhole && this.#waiting.length === 0);
      if (this.#isBlocked) return;
    }
    if (this.#isWhole) up.end();
  }

  // The server's side.

  opened({ connection }: StreamConnection): void {
    this.turn++;
    if (this.#isOver) return;
    const { method, scheme, path, authority } = this.#head;
    const { edits } = this.#rewrite;
    const line = {
      method,
      scheme,
      path: this.#rewrite.path ?? path,
      authority: this.#rewrite.authority ?? authority,
    };
    const isBodiless = this.#isWhole && this.#waiting.length === 0;
    const up = connection.request(line, editedFields(this.#head.headers(), edits), isBodiless, this, null);
    if (up === null) this.#giveUp("failed");
    else {
      this.#up = up;
      if (!isBodiless) this.#send();
    }
  }
  joined(stream: Http1Stream): void {
    this.#joining = undefined;
    this.#up = stream;
    this.#send();
  }
  failedToJoin(): void {
    this.#giveUp("failed");
  }
  notConnected(_why: string, turn: number): void {
    if (turn === this.turn) this.#giveUp("failed");
  }
  upDrain(): void {
    this.#isBlocked = false;
    this.#send();
  }
  upHead(_head: UpHead): void {}
  upData(chunk: Buffer): void {
    this.#up?.consume(chunk.length);
  }
  upTrailers(): void {}
  upEnd(): void {
    this.#finish("answered");
  }
  upReset(): void {
    this.#finish("failed");
  }
  upClosed(): void {
    this.#finish("answered");
  }
  touch(): void {}
  threw(): void {
    this.#finish("failed");
  }

  sweep(now: number): void {
    if (now >= this.#untilMs) this.#giveUp("timeout");
  }

  #giveUp(how: MirrorEnd): void {
    if (this.#isOver) return;
    const [up, joining] = [this.#up, this.#joining];
    this.#finish(how);
    if (up !== undefined) up.reset(errorCode.cancel);
    else if (joining !== undefined) joining.reset(errorCode.cancel);
    else this.#pool.streams?.giveUp(this);
  }

  #finish(how: MirrorEnd): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#up = this.#joining = undefined;
    this.#waiting = [];
    this.#times.remove(this);
    this.#tell(how);
  }
}
