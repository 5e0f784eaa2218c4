// `fairlead certs`: each workload's certificate on each node: when it ends, when it is renewed, and what went wrong.
import { fieldsAt, listAt } from "../test/lab/objects.ts";
import type { Call, Command } from "./command.ts";
import { askController, gather, jsonOption, meshOptions, number, shortIdentity, text, withMesh } from "./mesh.ts";
import { cell, duration, table } from "./table.ts";
import type { MeshView } from "./view.ts";

export const certs: Command = {
  name: "certs",
  usage: "certs [--lab NAME | --context NAME] [--json]",
  summary: "Certificates of workloads: state, expiry, next renewal, issuer, failures.",
  options: { ...meshOptions, json: jsonOption },
  run: (call) => withMesh(call, (mesh) => show(mesh, call)),
};

async function show(mesh: MeshView, call: Call): Promise<number> {
  const { rows, silent } = await gather(mesh, "/v1/certs", "svids");
  const ca = await askController(mesh, "/v1/status").then(
    (s) => fieldsAt(s.ca),
    () => ({}) as Readonly<Record<string, unknown>>, // certificates are shown without the controller too
  );
  if (call.flag("json")) {
    call.output.out(JSON.stringify({ ...mesh.named, ca, certificates: rows, silent }, null, 2));
    return 0;
  }
  const now = Date.now();
  const { out, colour } = call.output;
  const roots = listAt(ca.roots).map((r) => text(fieldsAt(r).sha256).slice(0, 16));
  if (roots.length > 0)
    out(
      `CA of ${text(ca.trustDomain)}: ${text(ca.phase)}, trust generation ${text(ca.generation)}, root ${roots.join(" and ")}, intermediate until ${text(ca.intermediateNotAfter)}`,
    );
  const inTime = (ms: number): string =>
    ms === 0 ? "-" : ms <= now ? `${duration(now - ms)} ago` : `in ${duration(ms - now)}`;
  const body = rows.map((c) => [
    text(c.node),
    shortIdentity(c.identity),
    cell(text(c.state), c.state === "current" ? "green" : "red"),
    inTime(number(c.notAfterMs)),
    inTime(number(c.renewAtMs)),
    text(c.trustGeneration) || "-",
    `${number(c.failures) === 0 ? "" : `${text(c.failures)} failures: `}${text(c.lastError)}`,
  ]);
  out(table(["NODE", "IDENTITY", "STATE", "ENDS", "RENEWED", "TRUST", "TROUBLE"], body, colour));
  for (const line of silent) call.output.err(line);
  return rows.every((c) => c.state === "current") && silent.length === 0 ? 0 : 1;
}
