// Who calls, decided once for every service: a node by its certificate (it has joined with a token), or by the service account token of
// the agent that runs on it. A token counts only while its pod is there, is the agent's, and runs on the node that the token names.
import { status } from "@grpc/grpc-js";
import { type NodeName, parseNodeName, parseSpiffeId, partsOf } from "../../agent/api/names.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { Config } from "../config.ts";
import type { Authority } from "../issue/authority.ts";
import { readClaims } from "../issue/token-claims.ts";
import { type ReviewedToken, TokenReviews } from "../issue/token-reviews.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { type AnyCall, bearerToken, type CallFault, callingNode } from "../serve/caller.ts";
import type { PodObject } from "../sources/types.ts";
import { isOver } from "../translate/workload-record.ts";
import type { Mesh } from "./mesh.ts";
import type { OpenedApi } from "./open-source.ts";

export interface Account {
  readonly namespace: string;
  readonly name: string;
}
export interface CallerParts {
  readonly mesh: Mesh;
  /** undefined where nobody can say whose a service account token is. */
  readonly tokens: TokenReviews | undefined;
  /** Of the agents' DaemonSet. */
  readonly agents: readonly Account[];
  /** As ztunnels' tokens name them; none: no ztunnel is answered. */
  readonly ztunnels: readonly Account[];
  /** Without an API server: the node of a token that we made ourselves. */
  readonly nodeOfToken: (token: string) => Result<NodeName, string>;
  readonly log: Logger;
  readonly refused: (reason: string) => void;
  /** A pod may call before the controller has seen it. */
  readonly waitMs: number;
  /** Looks at the sources at once: a pod may be newer than the last reading. */
  readonly rescan: () => void;
}
/** What agents' tokens are for. */
export const agentAudience = "fairlead-ca";
/** What ztunnels' tokens are for. */
export const istioAudience = "istio-ca";
type Who = Result<NodeName, CallFault>;

export class Callers {
  readonly #parts: CallerParts;

  constructor(parts: CallerParts) {
    this.#parts = parts;
  }

  /** The node whose agent calls. */
  async agent(call: AnyCall): Promise<Who> {
    const token = bearerToken(call);
    if (token === undefined) return callingNode(call, this.#parts.mesh.trustDomains);
    return this.byToken(call, token, agentAudience, this.#parts.agents);
  }

  /** Whether the call shows a token for Istio's audience: it is a ztunnel's, or nobody's. */
  isZtunnel(call: AnyCall): boolean {
    const claims = readClaims(bearerToken(call) ?? "");
    return this.#parts.ztunnels.length > 0 && claims.ok && claims.value.audiences.includes(istioAudience);
  }

  /** The node whose ztunnel calls. */
  async ztunnel(call: AnyCall): Promise<Who> {
    const { tokens, ztunnels, nodeOfToken, refused, log } = this.#parts;
    const token = bearerToken(call) ?? "";
    if (tokens !== undefined) return this.byToken(call, token, istioAudience, ztunnels);
    const node = ztunnels.length > 0 ? nodeOfToken(token) : err("no ztunnel is let in: set FAIRLEAD_ISTIO_ACCOUNTS");
    if (node.ok) return node;
    refused("not_authenticated");
    log.warn("caller_refused", { peer: call.getPeer(), reason: "not_authenticated", message: node.error });
    return err({ code: status.UNAUTHENTICATED, message: node.error });
  }

  /** The node of the pod that a token is bound to, which must be one of these accounts' and for this audience. */
  async byToken(call: AnyCall, token: string, audience: string, accounts: readonly Account[]): Promise<Who> {
    const { tokens, log, refused } = this.#parts;
    const refuse = (reason: string, code: number, message: string): Who => {
      refused(reason);
      log.warn("caller_refused", { peer: call.getPeer(), reason, message });
      return err({ code, message });
    };
    const { UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE } = status;
    if (tokens === undefined)
      return refuse("no_review", UNAUTHENTICATED, "service account tokens are not taken here: join with a join token");
    const reviewed = await tokens.check(token);
    if (!reviewed.ok) {
      const { reason, message } = reviewed.error;
      return refuse(reason, reason === "unavailable" ? UNAVAILABLE : UNAUTHENTICATED, message);
    }
    const { namespace, serviceAccount, audiences, pod: bound, node: claimed } = reviewed.value;
    if (!audiences.includes(audience))
      return refuse("audience", UNAUTHENTICATED, `the token is not for the audience ${audience}`);
    if (!accounts.some((one) => one.namespace === namespace && one.name === serviceAccount))
      return refuse(
        "account",
        PERMISSION_DENIED,
        `${namespace}/${serviceAccount} may not ask for certificates of others`,
      );
    if (bound === undefined)
      return refuse("unbound", PERMISSION_DENIED, "the token is bound to no pod: use a projected one");
    const pod = await this.#livingPod(reviewed.value);
    if (pod === undefined)
      return refuse("pod_gone", PERMISSION_DENIED, `the token's pod ${namespace}/${bound.name} does not run`);
    const { nodeName } = pod.spec;
    if (claimed !== undefined && claimed !== nodeName)
      return refuse(
        "other_node",
        PERMISSION_DENIED,
        `the token is of the node ${claimed}, its pod runs on ${nodeName}`,
      );
    const node = parseNodeName(nodeName);
    return node.ok ? node : refuse("other_node", PERMISSION_DENIED, node.error);
  }

  /** The bound pod, by name and uid, once it is known here; undefined when it has ended or is not seen in time. */
  async #livingPod({ namespace, pod: bound }: ReviewedToken): Promise<PodObject | undefined> {
    const { mesh, rescan, waitMs } = this.#parts;
    const find = (): PodObject | undefined => {
      const found = mesh.index.get("Pod", namespace, bound?.name ?? "")?.object;
      return found?.metadata.uid === bound?.uid && found?.spec.nodeName !== "" ? found : undefined;
    };
    if (find() === undefined) {
      rescan();
      await mesh.waitFor(() => find() !== undefined, waitMs);
    }
    const pod = find();
    return pod === undefined || isOver(pod) ? undefined : pod;
  }
}

/** "<namespace>/<name>" */
export function parseAccount(text: string): Result<Account, string> {
  const [namespace = "", name = "", ...rest] = text.split("/");
  const isName = (part: string): boolean => /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(part);
  return rest.length === 0 && isName(namespace) && isName(name)
    ? ok({ namespace, name })
    : err(`"${text.slice(0, 100)}" is not NAMESPACE/SERVICEACCOUNT`);
}

/** With tokens where there is an API server to ask about them. */
export function openCallers(parts: {
  readonly config: Config;
  readonly opened: OpenedApi | undefined;
  readonly mesh: Mesh;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: ControllerMetrics;
  readonly rescan: () => void;
  readonly authority: Authority;
}): Callers {
  const { config, opened, mesh, clock, log, metrics, rescan, authority } = parts;
  const tokens =
    opened &&
    new TokenReviews({
      api: opened.api,
      clock,
      audiences: config.istioAccounts.length > 0 ? [agentAudience, istioAudience] : [agentAudience],
      cacheMs: config.tokenCacheMs,
      reviewed: (outcome) => metrics.tokenReviews.add({ outcome }),
    });
  const accounts = (texts: readonly string[]): readonly Account[] =>
    texts.flatMap((text) => {
      const account = parseAccount(text);
      return account.ok ? [account.value] : [];
    });
  return new Callers({
    mesh,
    tokens,
    agents: accounts(config.agentAccounts),
    ztunnels: accounts(config.istioAccounts),
    nodeOfToken(token) {
      const subject = authority.jwtSubject(token, istioAudience);
      if (!subject.ok) return subject;
      const id = parseSpiffeId(subject.value);
      const who = id.ok ? partsOf(id.value) : undefined;
      return who?.kind === "node" && mesh.trustDomains.includes(who.trustDomain)
        ? ok(who.node)
        : err("the token is no node's");
    },
    log,
    waitMs: config.placementWaitMs,
    refused: (reason) => metrics.callersRefused.add({ reason }),
    rescan,
  });
}
