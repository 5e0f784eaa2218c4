// One active health check: a connection to an endpoint as requests have it (through the tunnel where there is one, in the name of a pod of
// the clients' namespace), and a request on it.
import type { OnReadOpts, Socket } from "node:net";
import type { HealthCheck } from "../api/http-policy.ts";
import type { ServiceName } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import { planEndpoint } from "../decide/upstreams.ts";
import { MORE, REFUSED } from "../forward/http1/fields.ts";
import { defaultCodecLimits } from "../forward/http1/limits.ts";
import { ResponseParser } from "../forward/http1/response.ts";
import type { Target, TargetDialer } from "../forward/pools.ts";
import type { Replica } from "../replica.ts";
import type { Probe, ProbeResult } from "./health.ts";
import type { Member } from "./member.ts";
import { GrpcProbe } from "./probe-grpc.ts";

export interface ProbeParts {
  readonly replica: Replica;
  readonly dial: TargetDialer;
  readonly clock: Clock;
}

/** Probes in the name of the clients in a namespace. */
export const probeFor =
  ({ replica, dial, clock }: ProbeParts) =>
  (namespace: string, service: ServiceName): Probe =>
  async (member, check) => {
    const pod = replica.inNamespace(namespace);
    const ip = pod?.workload.addresses.find((a) => a.includes(":") === member.upstream.ip.includes(":"));
    if (pod === undefined || ip === undefined) return undefined;
    const endpoint = { ...planEndpoint(member.upstream), ...(check.port === 0 ? {} : { port: check.port }) };
    const target: Target = { pod: pod.name, source: { ip, port: 0 }, endpoint, destination: endpoint, service };
    return probeOnce(target, member, check, dial, clock);
  };

function probeOnce(
  target: Target,
  member: Member,
  check: HealthCheck,
  dial: TargetDialer,
  clock: Clock,
): Promise<ProbeResult> {
  const began = clock.monotonicMs();
  return new Promise((resolve) => {
    let socket: Socket | undefined;
    let isOver = false;
    const end = (isGood: boolean, why: string): void => {
      if (isOver) return;
      isOver = true;
      cancel();
      socket?.destroy();
      resolve({ isGood, ms: clock.monotonicMs() - began, why });
    };
    const cancel = clock.after(check.timeoutMs, () => end(false, "timeout"));
    const asked = ask(check, member, clock, end);
    void dial(target, asked.onread).then(
      (dialled) => {
        if (!dialled.ok) return end(false, dialled.error);
        socket = dialled.value;
        socket.on("error", () => end(false, "reset"));
        socket.on("close", () => end(false, "closed"));
        if (isOver) socket.destroy();
        else asked.begin(socket);
      },
      () => end(false, "connect_failed"),
    );
  });
}

type End = (isGood: boolean, why: string) => void;
/** One probe on its connection: what reads it, and what is done once it stands. */
interface Asked {
  readonly onread: OnReadOpts;
  begin(socket: Socket): void;
}

function ask(check: HealthCheck, { id }: Member, clock: Clock, end: End): Asked {
  const host = check.host === "" ? id : check.host;
  if (check.kind === "grpc") return new GrpcProbe(check.grpcService, host, clock, end);
  const head = new AnswerHead((status) => end(status >= 200 && status < 400, `status_${status}`), end);
  const request = `GET ${check.path} HTTP/1.1\r\nhost: ${host}\r\nuser-agent: fairlead-health\r\naccept: */*\r\nconnection: close\r\n\r\n`;
  const begin = (socket: Socket): void => (check.kind === "tcp" ? end(true, "connected") : void socket.write(request));
  return { onread: head.onread, begin };
}

/** Reads an answer's head; what follows is of no interest. */
class AnswerHead {
  readonly onread: OnReadOpts;
  readonly #parser = new ResponseParser(defaultCodecLimits);
  #rest: Buffer = Buffer.alloc(0);

  constructor(answered: (status: number) => void, refused: End) {
    this.#parser.method = "GET";
    const buffer = Buffer.alloc(4096);
    this.onread = {
      buffer,
      callback: (n: number): boolean => {
        this.#rest = Buffer.concat([this.#rest, buffer.subarray(0, n)]);
        for (;;) {
          const outcome = this.#parser.run(this.#rest, 0, this.#rest.length);
          if (outcome === MORE) return true;
          if (outcome === REFUSED) refused(false, this.#parser.refused?.refused ?? "malformed");
          else if (this.#parser.isInterim) {
            this.#rest = this.#rest.subarray(this.#parser.at);
            this.#parser.reset();
            continue;
          } else answered(this.#parser.status);
          return false;
        }
      },
    };
  }
}
