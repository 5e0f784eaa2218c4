// Addresses of the nodes, as pods report them of their hosts and nodes of themselves, counted so that one comes and goes with its last mention.
import { canonicalIp } from "../../agent/base/ip.ts";
import type { MeshObject } from "../sources/types.ts";

export class NodeAddresses {
  readonly #mentions = new Map<string, number>();
  #sorted: readonly string[] | undefined = [];

  /** All of them, sorted; the same array as long as nothing changes. */
  get all(): readonly string[] {
    this.#sorted ??= [...new Set([...this.#mentions.keys()].flatMap((ip) => canonicalIp(ip) ?? []))].sort();
    return this.#sorted;
  }
  change(before: MeshObject | undefined, after: MeshObject | undefined): void {
    // First what comes: an address that both mention never goes to nothing.
    for (const ip of mentionedBy(after)) {
      const count = this.#mentions.get(ip) ?? 0;
      this.#mentions.set(ip, count + 1);
      if (count === 0) this.#sorted = undefined;
    }
    for (const ip of mentionedBy(before)) {
      const count = this.#mentions.get(ip) ?? 0;
      if (count > 1) this.#mentions.set(ip, count - 1);
      else {
        this.#mentions.delete(ip);
        this.#sorted = undefined;
      }
    }
  }
}

function mentionedBy(object: MeshObject | undefined): readonly string[] {
  if (object?.kind === "Pod") return [object.status.hostIP, ...object.status.hostIPs.map((host) => host.ip)];
  if (object?.kind === "Node")
    return object.status.addresses.filter(({ type }) => type.endsWith("IP")).map(({ address }) => address);
  return [];
}
