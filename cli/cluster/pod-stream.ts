// A program in a pod as a stream of bytes: what is written is its standard input, what is read its standard output.
import { Duplex, PassThrough } from "node:stream";

/** What a program says on standard error is kept up to here: the reason when it fails. */
const mostSaid = 4096;

interface Closable {
  close(): void;
  on(event: "close", listener: () => void): unknown;
}

/** Made before the connection is there; `over` is told of it. Takes the calls that node:http makes of a socket. */
export class PodStream extends Duplex {
  readonly stdin = new PassThrough();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly #name: string;
  #said = "";
  #socket: Closable | undefined;

  constructor(name: string) {
    super({ allowHalfOpen: false });
    this.#name = name;
    this.stdout.on("data", (chunk: Buffer) => {
      if (!this.push(chunk)) this.stdout.pause();
    });
    this.stderr.on("data", (chunk: Buffer) => {
      if (this.#said.length < mostSaid) this.#said += chunk.toString("utf8");
    });
  }

  over(socket: Closable): void {
    this.#socket = socket;
    socket.on("close", () => this.#finish());
    if (this.destroyed) socket.close();
  }

  /** The program's end, as the API server tells it; the end of its output alone says nothing about whether it failed. */
  ended(problem: string | undefined): void {
    const said = this.#said.trim().split("\n").at(-1) ?? "";
    if (problem === undefined) this.#finish();
    else this.destroy(new Error(`${this.#name}: ${said === "" ? problem : said}`));
  }

  /** What has come is still given. */
  #finish(): void {
    if (this.destroyed) return;
    this.stdout.end();
    if (this.stdout.readableEnded) this.push(null);
    else this.stdout.once("end", () => this.push(null));
  }

  override _read(): void {
    this.stdout.resume();
  }
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.stdin.write(chunk);
    done();
  }
  override _final(done: (error?: Error | null) => void): void {
    this.stdin.end();
    done();
  }
  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket?.close();
    done(error);
  }

  setKeepAlive(): this {
    return this;
  }
  setNoDelay(): this {
    return this;
  }
  setTimeout(): this {
    return this;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
}
