// What agents call besides discovery: joining, renewing their credential, reporting, and certificates for their workloads.
import { type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import type {
  CertificateServiceServer,
  IssueResponse,
  JoinRequest,
  JoinResponse,
  NodeServiceServer,
  ReportResponse,
} from "../../agent/api/mesh.gen.ts";
import { type NodeName, nodeId, parseNodeName, parseSpiffeId, partsOf } from "../../agent/api/names.ts";
import type { Clock } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { Authority, Issued } from "../issue/authority.ts";
import { checkCsr } from "../issue/csr.ts";
import type { JoinTokens } from "../issue/join-tokens.ts";
import { clockSkewMs } from "../issue/pki.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { type CallFault, callingNode } from "../serve/caller.ts";
import type { AgentReports } from "../status/agents.ts";
import type { Ledger } from "./ledger.ts";
import type { Mesh } from "./mesh.ts";

export interface NodeServiceParts {
  readonly mesh: Mesh;
  readonly authority: Authority;
  readonly tokens: JoinTokens;
  readonly reports: AgentReports;
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: ControllerMetrics;
  readonly svidTtlMs: number;
  readonly nodeTtlMs: number;
  /** Looks at the sources at once: the asked-for pod may be newer than the last reading. */
  readonly rescan: () => void;
}
type Reply<T> = Result<T, CallFault>;

/** A pod's record may reach the agent before the controller has seen the pod. */
const placementWaitMs = 2000;
const fault = (code: number, message: string): Result<never, CallFault> => err({ code, message });

export function nodeServices(parts: NodeServiceParts): {
  readonly node: NodeServiceServer;
  readonly certificates: CertificateServiceServer;
} {
  const { mesh, authority, tokens, clock, log, metrics } = parts;

  const signNode = async (
    node: NodeName,
    csrPem: string,
    redeem: ((publicKey: Uint8Array) => Reply<void>) | undefined,
  ): Promise<Reply<JoinResponse>> => {
    const uri = nodeId(mesh.settings.trustDomain, node);
    const csr = await checkCsr(csrPem, uri);
    if (!csr.ok) return fault(status.INVALID_ARGUMENT, `csr_pem: ${csr.error}`);
    const redeemed = redeem?.(csr.value.publicKey) ?? ok(undefined);
    if (!redeemed.ok) return redeemed;
    const issued = await authority.issue({ publicKey: csr.value.publicKey, uri }, parts.nodeTtlMs, clockSkewMs);
    parts.ledger.issued(node, uri, issued);
    return ok({ chainPem: issued.chainPem, rootsPem: authority.rootsPem.join("") });
  };

  const join = async (request: JoinRequest): Promise<Reply<JoinResponse>> => {
    const node = parseNodeName(request.node);
    if (!node.ok) return fault(status.INVALID_ARGUMENT, `node: ${node.error}`);
    const reply = await signNode(node.value, request.csrPem, (publicKey) => {
      const redeemed = tokens.redeem(request.token, node.value, publicKey);
      if (redeemed.ok) return redeemed;
      const texts = {
        unknown: "the join token is not known here",
        expired: "the join token has expired",
        used: "the join token was used by another key",
        other_node: "the join token is for another node",
      };
      return fault(status.PERMISSION_DENIED, `${texts[redeemed.error]}: make a new one with POST /v1/join-tokens`);
    });
    metrics.joins.add({ outcome: reply.ok ? "joined" : "refused" });
    if (reply.ok) log.info("node_joined", { node: node.value });
    else log.warn("join_refused", { node: request.node.slice(0, 80), reason: reply.error.message });
    return reply;
  };

  const renew = async (caller: NodeName, request: JoinRequest): Promise<Reply<JoinResponse>> => {
    if (request.node !== caller)
      return fault(status.PERMISSION_DENIED, `${caller} cannot renew the credential of another node`);
    const reply = await signNode(caller, request.csrPem, undefined);
    metrics.certificates.add({ kind: "node", outcome: reply.ok ? "issued" : "refused" });
    return reply;
  };

  const issue = async (node: NodeName, identity: string, csrPem: string): Promise<Reply<IssueResponse>> => {
    const id = parseSpiffeId(identity);
    if (!id.ok) return fault(status.INVALID_ARGUMENT, `identity: ${id.error}`);
    const who = partsOf(id.value);
    if (who.kind !== "workload" || who.trustDomain !== mesh.settings.trustDomain) {
      return fault(status.PERMISSION_DENIED, `${identity} is not a workload of ${mesh.settings.trustDomain}`);
    }
    const csr = await checkCsr(csrPem, id.value);
    if (!csr.ok) return fault(status.INVALID_ARGUMENT, `csr_pem: ${csr.error}`);
    const isHere = (): boolean => mesh.runsOn(node, who.namespace, who.serviceAccount);
    if (!isHere()) parts.rescan();
    if (!(await mesh.waitFor(isHere, placementWaitMs))) {
      return fault(
        status.PERMISSION_DENIED,
        `no pod of ${who.namespace}/${who.serviceAccount} runs on the node ${node}`,
      );
    }
    const issued: Issued = await authority.issue(
      { publicKey: csr.value.publicKey, uri: id.value },
      parts.svidTtlMs,
      clockSkewMs,
    );
    parts.ledger.issued(node, id.value, issued);
    return ok({ chainPem: issued.chainPem, notAfterMs: issued.notAfterMs, trustGeneration: authority.generation });
  };

  /** Answers a call; what was not foreseen (a full disk, a bug) is told as such and logged. */
  const unary =
    <I, O>(handle: (request: I, call: ServerUnaryCall<I, O>) => Promise<Reply<O>>) =>
    (call: ServerUnaryCall<I, O>, done: sendUnaryData<O>): void => {
      handle(call.request, call)
        .catch((error: unknown): Reply<O> => {
          log.error("call_failed", { method: call.getPath(), error });
          return fault(status.UNAVAILABLE, messageOf(error));
        })
        .then((reply) =>
          reply.ok ? done(null, reply.value) : done({ code: reply.error.code, details: reply.error.message }),
        );
    };
  /** As unary, for nodes only. */
  const fromNode = <I, O>(handle: (node: NodeName, request: I) => Promise<Reply<O>>) =>
    unary<I, O>(async (request, call) => {
      const caller = callingNode(call, mesh.trustDomains);
      return caller.ok ? handle(caller.value, request) : caller;
    });

  return {
    node: {
      join: unary(join),
      renew: fromNode(renew),
      report: fromNode(async (node, request) => {
        if (request.node !== node) return fault(status.PERMISSION_DENIED, `${node} cannot report for another node`);
        parts.reports.put(node, request, clock.now());
        mesh.refreshSoon();
        return ok<ReportResponse>({});
      }),
    },
    certificates: {
      issue: fromNode(async (node, request) => {
        const started = clock.monotonicMs();
        const reply = await issue(node, request.identity, request.csrPem);
        metrics.issueSeconds.observe({}, (clock.monotonicMs() - started) / 1000);
        metrics.certificates.add({ kind: "workload", outcome: reply.ok ? "issued" : "refused" });
        if (!reply.ok)
          log.warn("certificate_refused", {
            node,
            identity: request.identity.slice(0, 200),
            reason: reply.error.message,
          });
        return reply;
      }),
    },
  };
}
