// What operators ask the controller: status of objects and agents, services, roots, join tokens, rotation, export of the root.
import { nodeId, parseNodeName } from "../../agent/api/names.ts";
import { json, problem, type Route } from "../../agent/base/admin-server.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { Authority } from "../issue/authority.ts";
import type { JoinTokens } from "../issue/join-tokens.ts";
import { exportPkcs12 } from "../issue/pkcs12.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import type { AgentReports } from "../status/agents.ts";
import { objectStatuses } from "../status/objects.ts";
import type { NodeView } from "../status/reach.ts";
import { istioAudience } from "./callers.ts";
import type { Ledger } from "./ledger.ts";
import type { Mesh } from "./mesh.ts";
import { rotate, rotationPhases } from "./rotation.ts";
import { routeTable } from "./route-table.ts";

/** Life of a token that a ztunnel outside of a cluster shows: nothing revokes it. */
const nodeTokenMs = 86_400_000;

export interface AdminParts {
  readonly mesh: Mesh;
  readonly authority: Authority;
  readonly tokens: JoinTokens;
  readonly registry: AgentRegistry;
  readonly reports: AgentReports;
  /** Agents that count for objects: of every replica where this one leads. */
  readonly views: () => ReadonlyMap<string, NodeView>;
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly joinTokenTtlMs: number;
  readonly longestLifeMs: number;
  readonly hasZtunnels: boolean;
  readonly rescan: () => Promise<void>;
  readonly config: Readonly<Record<string, unknown>>;
}

export function adminRoutes(parts: AdminParts): readonly Route[] {
  const { mesh, authority, tokens, registry, reports, ledger, clock, log } = parts;

  const agents = () =>
    registry.current().map((stream) => {
      const report = reports.get(stream.node);
      return {
        node: stream.node,
        connectedAt: new Date(stream.connectedAtMs).toISOString(),
        version: report?.agentVersion ?? "",
        interception: report?.interception ?? "",
        enrolledPods: report?.enrolled ?? 0,
        notEnrolled: Object.fromEntries(report?.unenrolled ?? []),
        notEnforced: Object.fromEntries(report?.notEnforced ?? []),
        waitingFor: stream.waiting,
      };
    });
  const ca = () => ({
    trustDomain: mesh.settings.trustDomain,
    generation: authority.generation,
    phase: authority.phase,
    intermediateNotAfter: new Date(authority.intermediateNotAfterMs).toISOString(),
    roots: authority.describe().map((root) => ({ ...root, notAfter: new Date(root.notAfterMs).toISOString() })),
    certificates: ledger.living().length,
  });

  return [
    {
      method: "GET",
      path: "/v1/status",
      handle: () =>
        json({
          ca: ca(),
          agents: agents(),
          objects: objectStatuses(mesh.conditions, mesh.problems, mesh.ignored, [...parts.views().values()]),
        }),
    },
    { method: "GET", path: "/v1/agents", handle: () => json({ agents: agents() }) },
    {
      method: "GET",
      path: "/v1/routes",
      handle: ({ query }) => json({ services: routeTable(mesh.routing, query.get("service") ?? undefined) }),
    },
    { method: "GET", path: "/v1/services", handle: () => json({ services: mesh.services }) },
    { method: "GET", path: "/v1/ca", handle: () => json(ca()) },
    {
      method: "GET",
      path: "/v1/certs",
      handle: () =>
        json({ certificates: ledger.living().map((e) => ({ ...e, notAfter: new Date(e.notAfterMs).toISOString() })) }),
    },
    {
      method: "GET",
      path: "/v1/roots",
      handle: () => ({ status: 200, body: authority.rootsPem.join(""), contentType: "application/x-pem-file" }),
    },
    { method: "GET", path: "/v1/config", handle: () => json(parts.config) },
    {
      method: "POST",
      path: "/v1/sync",
      async handle() {
        await parts.rescan();
        return json({ generation: mesh.snapshot.generation });
      },
    },
    {
      method: "POST",
      path: "/v1/join-tokens",
      fields: { node: "string" },
      handle({ body }) {
        const node = parseNodeName(String(body.node));
        if (!node.ok) return problem(400, "bad_node", `node: ${node.error}`);
        const { token, expiresMs } = tokens.create(node.value, parts.joinTokenTtlMs);
        log.info("join_token_created", { node: node.value, expires: new Date(expiresMs).toISOString() });
        return json({ token, expires: new Date(expiresMs).toISOString() });
      },
    },
    {
      method: "POST",
      path: "/v1/node-tokens",
      fields: { node: "string" },
      handle({ body }) {
        const node = parseNodeName(String(body.node));
        if (!node.ok) return problem(400, "bad_node", `node: ${node.error}`);
        const subject = nodeId(mesh.settings.trustDomain, node.value);
        const issued = authority.issueJwt({ subject, audience: [istioAudience], lifeMs: nodeTokenMs });
        const expires = new Date(issued.notAfterMs).toISOString();
        log.info("node_token_created", { node: node.value, expires });
        return json({ token: issued.token, expires });
      },
    },
    {
      method: "POST",
      path: "/v1/ca/rotate",
      fields: { phase: "string", force: "boolean?" },
      async handle({ body }) {
        const phase = rotationPhases.find((p) => p === body.phase);
        if (phase === undefined) return problem(400, "bad_phase", `phase is none of ${rotationPhases.join(", ")}`);
        const result = await rotate(phase, body.force === true, {
          authority,
          registry,
          ledger,
          trustDomain: mesh.settings.trustDomain,
          now: () => clock.now(),
          longestLifeMs: parts.longestLifeMs,
          hasZtunnels: parts.hasZtunnels,
        });
        if (!result.ok) return problem(409, "rotation_not_possible", result.error);
        log.info("root_rotation", { phase, generation: authority.generation });
        return json(ca());
      },
    },
    {
      method: "POST",
      path: "/v1/ca/export",
      fields: { password: "string" },
      handle({ body }) {
        const root = authority.exportRoot();
        if (root.keyPem === undefined) return problem(409, "no_root_key", "the root's key is not kept here");
        const file = exportPkcs12(root.certPem, root.keyPem, String(body.password));
        if (!file.ok) return problem(400, "bad_password", `password: ${file.error}`);
        log.warn("root_exported", {});
        return json({ pkcs12: Buffer.from(file.value).toString("base64") });
      },
    },
  ];
}
