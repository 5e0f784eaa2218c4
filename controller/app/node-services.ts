// What agents call besides discovery: joining, renewing their credential, reporting, and certificates for their workloads.
import { type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import type {
  CertificateServiceServer,
  IssueJwtResponse,
  IssueResponse,
  JoinRequest,
  JoinResponse,
  NodeServiceServer,
  ReportResponse,
} from "../../agent/api/mesh.gen.ts";
import { type NodeName, nodeId, parseNodeName, parseSpiffeId, partsOf, type SpiffeId } from "../../agent/api/names.ts";
import type { Clock } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { Authority, Issued } from "../issue/authority.ts";
import { checkCsr } from "../issue/csr.ts";
import type { JoinTokens } from "../issue/join-tokens.ts";
import { wrongAudience } from "../issue/jwt.ts";
import { clockSkewMs } from "../issue/pki.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import type { CallFault } from "../serve/caller.ts";
import type { AgentReports } from "../status/agents.ts";
import type { Callers } from "./callers.ts";
import type { Ledger } from "./ledger.ts";
import type { Mesh } from "./mesh.ts";

export interface NodeServiceParts {
  readonly mesh: Mesh;
  readonly callers: Callers;
  readonly authority: Authority;
  readonly tokens: JoinTokens;
  readonly reports: AgentReports;
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: ControllerMetrics;
  readonly svidTtlMs: number;
  readonly nodeTtlMs: number;
  /** A pod's record may reach the agent before the controller has seen the pod. */
  readonly placementWaitMs: number;
  readonly jwtTtlMs: number;
  /** Looks at the sources at once: the asked-for pod may be newer than the last reading. */
  readonly rescan: () => void;
  /** An agent has reported. */
  readonly reported: () => void;
}
interface Wanted {
  readonly id: SpiffeId;
  readonly namespace: string;
  readonly serviceAccount: string;
}
type Reply<T> = Result<T, CallFault>;

const fault = (code: number, message: string): Result<never, CallFault> => err({ code, message });

export function nodeServices(parts: NodeServiceParts): {
  readonly node: NodeServiceServer;
  readonly certificates: CertificateServiceServer;
  /** As the certificate service does it, for callers who hear of roots with it and in no other way. `lifeMs` may only shorten it. */
  readonly issueFor: (
    node: NodeName,
    identity: string,
    csrPem: string,
    lifeMs: number | undefined,
  ) => Promise<Reply<IssueResponse>>;
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

  /** The workload of this mesh that an identity names. */
  const workloadOf = (identity: string): Reply<Wanted> => {
    const id = parseSpiffeId(identity);
    if (!id.ok) return fault(status.INVALID_ARGUMENT, `identity: ${id.error}`);
    const who = partsOf(id.value);
    return who.kind === "workload" && who.trustDomain === mesh.settings.trustDomain
      ? ok({ ...who, id: id.value })
      : fault(status.PERMISSION_DENIED, `${identity} is not a workload of ${mesh.settings.trustDomain}`);
  };
  /** Whether a living pod of it, with a network of its own, is on the node; a view that is behind is waited for. */
  const isPlaced = async (node: NodeName, { namespace, serviceAccount }: Wanted): Promise<Reply<void>> => {
    const isHere = (): boolean => mesh.runsOn(node, namespace, serviceAccount);
    if (!isHere()) parts.rescan();
    return (await mesh.waitFor(isHere, parts.placementWaitMs))
      ? ok(undefined)
      : fault(status.PERMISSION_DENIED, `no pod of ${namespace}/${serviceAccount} runs on the node ${node}`);
  };

  const issue = async (
    node: NodeName,
    identity: string,
    csrPem: string,
    lifeMs = parts.svidTtlMs,
    knowsRoot?: number,
  ): Promise<Reply<IssueResponse>> => {
    const wanted = workloadOf(identity);
    if (!wanted.ok) return wanted;
    const { id } = wanted.value;
    const csr = await checkCsr(csrPem, id);
    if (!csr.ok) return fault(status.INVALID_ARGUMENT, `csr_pem: ${csr.error}`);
    const placed = await isPlaced(node, wanted.value);
    if (!placed.ok) return placed;
    const issued: Issued = await authority.issue(
      { publicKey: csr.value.publicKey, uri: id },
      Math.min(lifeMs, parts.svidTtlMs),
      clockSkewMs,
    );
    parts.ledger.issued(node, id, issued, knowsRoot);
    return ok({ chainPem: issued.chainPem, notAfterMs: issued.notAfterMs, trustGeneration: authority.generation });
  };

  const issueJwt = async (
    node: NodeName,
    identity: string,
    audience: readonly string[],
  ): Promise<Reply<IssueJwtResponse>> => {
    const workload = workloadOf(identity);
    if (!workload.ok) return workload;
    const wrong = wrongAudience(audience);
    if (wrong !== undefined) return fault(status.INVALID_ARGUMENT, `audience: ${wrong}`);
    const placed = await isPlaced(node, workload.value);
    return placed.ok
      ? ok(authority.issueJwt({ subject: workload.value.id, audience, lifeMs: parts.jwtTtlMs }))
      : placed;
  };
  const told = <T>(kind: "workload" | "jwt", node: NodeName, identity: string, reply: Reply<T>): Reply<T> => {
    metrics.certificates.add({ kind, outcome: reply.ok ? "issued" : "refused" });
    if (!reply.ok)
      log.warn("certificate_refused", { kind, node, identity: identity.slice(0, 200), reason: reply.error.message });
    return reply;
  };

  const timed = async (
    node: NodeName,
    identity: string,
    csrPem: string,
    lifeMs?: number,
    knowsRoot?: number,
  ): Promise<Reply<IssueResponse>> => {
    const started = clock.monotonicMs();
    const reply = await issue(node, identity, csrPem, lifeMs, knowsRoot);
    metrics.issueSeconds.observe({}, (clock.monotonicMs() - started) / 1000);
    return told("workload", node, identity, reply);
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
      const caller = await parts.callers.agent(call);
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
        parts.reported();
        return ok<ReportResponse>({});
      }),
    },
    issueFor: (node, identity, csrPem, lifeMs) => timed(node, identity, csrPem, lifeMs, authority.newestRoot),
    certificates: {
      issue: fromNode((node, request) => timed(node, request.identity, request.csrPem)),
      issueJwt: fromNode(async (node, { identity, audience }) =>
        told("jwt", node, identity, await issueJwt(node, identity, audience)),
      ),
    },
  };
}
