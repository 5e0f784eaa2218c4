// The lab that the proofs run in: one client pod, a server on its own node, a server on the other, a strict namespace, no policy against them.

import type { TestLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication, serverPod, service } from "../kit/manifests.ts";

const ports = { 7000: 7000, 7001: 7001, 7002: 7002 } as const;

export const shopManifests: Readonly<Record<string, string>> = {
  "shop.yaml": manifest(
    namespace("shop"),
    peerAuthentication("shop/default", "STRICT"),
    clientPod("shop/client", { node: "node1" }),
    serverPod("shop/near", { node: "node1" }),
    serverPod("shop/far", { node: "node2" }),
    service("shop/near", "near", ports, { ipFamilyPolicy: "RequireDualStack" }),
    service("shop/far", "far", ports, { ipFamilyPolicy: "RequireDualStack" }),
  ),
};

export interface Path {
  readonly name: string;
  readonly host: string;
}

/** Same node and across nodes, IPv4 and IPv6: by the service's address where it has one of that family, else by the pod's. */
export async function paths(lab: TestLab): Promise<Path[]> {
  const status = await lab.status();
  const found: Path[] = [];
  for (const server of ["near", "far"]) {
    const of = status.services.find((s) => s.namespace === "shop" && s.name === server)?.addresses ?? [];
    const pod = status.pods.find((p) => p.name === server)?.ips ?? [];
    for (const family of [4, 6] as const) {
      const is = (a: string): boolean => a.includes(":") === (family === 6);
      const host = of.find(is) ?? pod.find(is);
      if (host === undefined) throw new Error(`no IPv${family} address for shop/${server}`);
      found.push({ name: `${server === "near" ? "same node" : "across nodes"}, IPv${family}`, host });
    }
  }
  return found;
}
