// The controller's own certificate: made by its CA for every name it can be reached by, renewed at half its life.

import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import type { TrustDomain } from "../../agent/api/names.ts";
import { workloadId } from "../../agent/api/names.ts";
import type { Authority } from "../issue/authority.ts";
import { clockSkewMs, makeKey, publicKeyOf } from "../issue/pki.ts";

export interface ServerIdentity {
  readonly certPem: string;
  readonly keyPem: string;
  readonly notAfterMs: number;
  readonly madeAtMs: number;
  /** What it was made for; when this changes it is made again. */
  readonly names: string;
  readonly generation: number;
}
export interface ServerIdentityOptions {
  readonly trustDomain: TrustDomain;
  readonly names: readonly string[];
  readonly lifeMs: number;
  readonly now: () => number;
}

/** Configured names, this machine's, and every address of its interfaces. */
function reachableBy(extra: readonly string[]): readonly string[] {
  const own = Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).map((entry) => entry.address.split("%")[0] ?? ""),
  );
  return [...new Set([...extra, "localhost", "fairlead-controller", ...own])].sort();
}

export async function makeServerIdentity(
  authority: Authority,
  options: ServerIdentityOptions,
): Promise<ServerIdentity> {
  const names = reachableBy(options.names);
  const keyPem = await makeKey("p-256");
  const plan = {
    publicKey: await publicKeyOf(keyPem),
    uri: workloadId(options.trustDomain, "fairlead-system", "fairlead-controller"),
    dns: names.filter((name) => isIP(name) === 0),
    ips: names.filter((name) => isIP(name) !== 0),
  };
  const { chainPem, notAfterMs } = await authority.issueForServer(plan, options.lifeMs, clockSkewMs);
  const { generation } = authority;
  return { certPem: chainPem, keyPem, notAfterMs, madeAtMs: options.now(), names: names.join(" "), generation };
}

export function isDue(identity: ServerIdentity, authority: Authority, options: ServerIdentityOptions): boolean {
  const half = identity.madeAtMs + (identity.notAfterMs - identity.madeAtMs) / 2;
  const isOld = options.now() >= half || identity.generation !== authority.generation;
  return isOld || identity.names !== reachableBy(options.names).join(" ");
}
