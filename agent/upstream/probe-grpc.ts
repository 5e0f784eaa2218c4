// The health check of gRPC: one call of grpc.health.v1.Health/Check on a connection of its own (gRPC Health Checking Protocol).
import type { Socket } from "node:net";
import type { Clock } from "../base/clock.ts";
import { defaultLimits, type Http2Limits } from "../forward/http2/limits.ts";
import { Turn } from "../forward/http2/socket.ts";
import type { UpHead, UpOwner } from "../forward/http2/stream-links.ts";
import { Http2Upstream, type UpstreamOwner } from "../forward/http2/upstream.ts";
import type { HeaderList } from "../http.ts";

const fields: HeaderList = ["content-type", "application/grpc", "te", "trailers", "user-agent", "fairlead-health"];
const serving = 1;
/** An answer is a few bytes. */
const mostBytes = 1024;

/** HealthCheckRequest{service = 1} with the prefix of a gRPC message. */
export function healthRequest(service: string): Buffer {
  const name = Buffer.from(service);
  const message = name.length === 0 ? name : Buffer.concat([Buffer.from([0x0a, name.length]), name]);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** HealthCheckResponse.status (field 1, an enumeration); undefined: these bytes are none. */
export function healthStatus(bytes: Buffer): number | undefined {
  if (bytes.length < 5 || bytes[0] !== 0) return undefined;
  const size = bytes.readUInt32BE(1);
  const message = bytes.subarray(5);
  if (message.length !== size) return undefined;
  if (size === 0) return 0;
  return message[0] === 0x08 && size === 2 ? message[1] : undefined;
}

export class GrpcProbe implements UpstreamOwner, UpOwner {
  readonly turn = new Turn();
  readonly http2Limits: Http2Limits = defaultLimits;
  readonly clock: Pick<Clock, "monotonicMs" | "after">;
  readonly #upstream: Http2Upstream;
  readonly #service: string;
  readonly #authority: string;
  readonly #ended: (isGood: boolean, why: string) => void;
  #body = Buffer.alloc(0);
  #status = "";
  #isAsked = false;

  constructor(service: string, authority: string, clock: Clock, ended: (isGood: boolean, why: string) => void) {
    this.clock = clock;
    this.#service = service;
    this.#authority = authority;
    this.#ended = ended;
    this.#upstream = new Http2Upstream(this, clock.monotonicMs());
  }

  get onread() {
    return this.#upstream.onread();
  }

  begin(socket: Socket): void {
    this.#upstream.opened(socket);
    this.#ask();
  }

  #ask(): void {
    if (this.#isAsked || !this.#upstream.canOpen) return;
    this.#isAsked = true;
    const line = { method: "POST", scheme: "http", authority: this.#authority, path: "/grpc.health.v1.Health/Check" };
    this.#upstream.connection.request(line, fields, false, this)?.sendData(healthRequest(this.#service), true);
  }

  freed(): void {
    this.#ask();
  }
  told(): void {}
  closing(): void {}
  gone(): void {
    this.#ended(false, "closed");
  }

  upHead(head: UpHead): void {
    if (head.status < 200) return;
    if (head.status !== 200) this.#ended(false, `status_${head.status}`);
    this.#status = head.header("grpc-status") ?? "";
  }
  upData(chunk: Buffer): void {
    this.#body = Buffer.concat([this.#body, chunk]);
    if (this.#body.length > mostBytes) this.#ended(false, "malformed");
  }
  upTrailers(trailers: HeaderList): void {
    for (let i = 0; i < trailers.length; i += 2)
      if (trailers[i] === "grpc-status") this.#status = trailers[i + 1] as string;
  }
  upEnd(): void {
    if (this.#status !== "0") this.#ended(false, `grpc_${this.#status}`);
    else {
      const status = healthStatus(this.#body);
      this.#ended(status === serving, status === serving ? "serving" : "not_serving");
    }
  }
  upDrain(): void {}
  upReset(why: string): void {
    this.#ended(false, why);
  }
  upClosed(): void {}
}
