// Statuses that were written to an API server, as its audit log tells, and those of them that told what was there already.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

interface AuditEvent {
  readonly user: { readonly username: string };
  readonly objectRef?: { readonly resource?: string; readonly namespace?: string; readonly name?: string };
  readonly requestObject?: { readonly status?: unknown };
  readonly responseStatus?: { readonly code?: number };
}
export interface StatusWrites {
  readonly written: number;
  readonly refused: number;
  /** Objects of which the same was written twice in turn. */
  readonly twice: readonly string[];
}

/** Flags of an API server that writes down each status that an account of `user` writes. */
export function auditFlags(folder: string, user: string): { readonly flags: readonly string[]; readonly log: string } {
  const [policy, log] = [join(folder, "audit-policy.json"), join(folder, "audit.log")];
  const rules = [
    { level: "Request", users: [user], verbs: ["update", "patch"], resources: statusResources },
    { level: "None" },
  ];
  writeFileSync(
    policy,
    JSON.stringify({ apiVersion: "audit.k8s.io/v1", kind: "Policy", omitStages: ["RequestReceived"], rules }),
  );
  writeFileSync(log, "");
  return { flags: [`--audit-policy-file=${policy}`, `--audit-log-path=${log}`], log };
}
const statusResources = [
  { group: "gateway.networking.k8s.io", resources: ["*/status"] },
  { group: "security.istio.io", resources: ["*/status"] },
];

export function statusWrites(log: string): StatusWrites {
  const before = new Map<string, string>();
  const twice: string[] = [];
  let [written, refused] = [0, 0];
  for (const line of readFileSync(log, "utf8").split("\n")) {
    // The last line may still be being written.
    if (!line.endsWith("}")) continue;
    const { objectRef, requestObject, responseStatus } = JSON.parse(line) as AuditEvent;
    const object = `${objectRef?.resource} ${objectRef?.namespace}/${objectRef?.name}`;
    if ((responseStatus?.code ?? 0) >= 300) {
      // A conflict, or the object is gone: nothing was written.
      refused += 1;
      continue;
    }
    written += 1;
    const said = JSON.stringify(requestObject?.status, (key, value) => (key === "lastTransitionTime" ? "" : value));
    if (before.get(object) === said) twice.push(object);
    before.set(object, said);
  }
  return { written, refused, twice };
}
