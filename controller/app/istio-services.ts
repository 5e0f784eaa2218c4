// What an unmodified ztunnel calls: the discovery of Istio's types, and Istio's certificate service. The same checks as for our own agents:
// the token's pod, its node, and a pod of the identity on that node.
import { type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import type {
  IstioCertificateRequest,
  IstioCertificateResponse,
  IstioCertificateServiceServer,
} from "../../agent/api/istio-ca.gen.ts";
import type { NodeName } from "../../agent/api/names.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import { messageOf } from "../../agent/base/log.ts";
import { err, type Result } from "../../agent/base/result.ts";
import type { Authority } from "../issue/authority.ts";
import { splitPem } from "../issue/pki.ts";
import type { CallFault } from "../serve/caller.ts";
import { IstioStream } from "../serve/istio-stream.ts";
import type { DiscoveryCall } from "../serve/stream.ts";
import type { Callers } from "./callers.ts";
import type { IstioView } from "./istio-view.ts";

export interface IstioParts {
  /** undefined where no ztunnel is let in. */
  readonly view: IstioView | undefined;
  readonly callers: Callers;
  readonly authority: Authority;
  readonly clock: Clock;
  readonly log: Logger;
  readonly streams: (by: number) => void;
  /** Signs for a pod of the node, or says why not. */
  readonly issue: (
    node: NodeName,
    identity: string,
    csrPem: string,
    lifeMs: number | undefined,
  ) => Promise<Result<{ readonly chainPem: string }, CallFault>>;
}

export interface IstioServices {
  /** Serves a stream that a node's ztunnel has opened. */
  readonly ztunnel: (node: NodeName, call: DiscoveryCall) => void;
  readonly certificates: IstioCertificateServiceServer;
  endAll(): void;
}

export function openIstio(parts: IstioParts): IstioServices {
  const open = new Set<IstioStream>();
  const { view, clock, streams } = parts;
  return {
    ztunnel(node, call) {
      if (view === undefined) return void call.end();
      const log = parts.log.with({ node });
      const stream: IstioStream = new IstioStream({
        node,
        call,
        source: view,
        clock,
        log,
        ended() {
          open.delete(stream);
          streams(-1);
          log.info("ztunnel_disconnected", {});
        },
      });
      open.add(stream);
      streams(1);
      log.info("ztunnel_connected", { peer: call.getPeer() });
    },
    certificates: certificates(parts),
    endAll() {
      for (const stream of [...open]) stream.end();
    },
  };
}

function certificates(parts: IstioParts): IstioCertificateServiceServer {
  const { callers, authority, log } = parts;
  type Call = ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>;
  const answer = async (call: Call): Promise<Result<IstioCertificateResponse, CallFault>> => {
    const node = await callers.ztunnel(call);
    if (!node.ok) return node;
    const { csr, validityDuration, metadata } = call.request;
    const identity = metadata?.fields.ImpersonatedIdentity?.stringValue ?? "";
    if (identity === "")
      return err({ code: status.INVALID_ARGUMENT, message: "metadata: ImpersonatedIdentity names nobody" });
    const lifeMs = validityDuration > 0 ? validityDuration * 1000 : undefined;
    const issued = await parts.issue(node.value, identity, csr, lifeMs);
    if (!issued.ok) return issued;
    // The last entry is what it checks its peers by, all that is in it; what is before it shows to them.
    return { ok: true, value: { certChain: [...splitPem(issued.value.chainPem), authority.rootsPem.join("")] } };
  };
  return {
    createCertificate(call: Call, done: sendUnaryData<IstioCertificateResponse>) {
      void answer(call)
        .catch((error: unknown): Result<never, CallFault> => {
          log.error("call_failed", { method: call.getPath(), error });
          return err({ code: status.UNAVAILABLE, message: messageOf(error) });
        })
        .then((reply) =>
          reply.ok ? done(null, reply.value) : done({ code: reply.error.code, details: reply.error.message }),
        );
    },
  };
}
