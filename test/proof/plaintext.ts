// Watches the link between nodes for the first bytes of a traffic connection in the clear, with a positive control (unmeshed pods, DP-33).
import { join } from "node:path";
import type { TestLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, serverPod } from "../kit/manifests.ts";
import { Capture, type Packet } from "../lab/capture.ts";

/** The traffic programs start every connection with these four bytes; the filter keeps only packets that begin with them. */
const HEAD = "0x464c5431";
const FILTER = `tcp[((tcp[12]&0xf0)>>2):4]=${HEAD} or (ip6 and (ip6[60:4]=${HEAD} or ip6[72:4]=${HEAD}))`;

export interface Wire {
  /** Packets of meshed pods that carried a head in the clear. */
  readonly plaintext: number;
  /** The same of the unmeshed pair: must not be 0, or the capture saw nothing at all. */
  readonly marked: number;
}

/** Starts to watch; `stop` makes one connection between two unmeshed pods, which must be seen, and counts. */
export async function plaintextBetweenNodes(lab: TestLab): Promise<{ stop(): Promise<Wire> }> {
  const status = await lab.status();
  const capture = await Capture.start(
    status.routerNetns,
    "node1",
    join(lab.manifests, "..", `${lab.name}-wire.pcap`),
    FILTER,
  );
  return {
    async stop() {
      lab.write(
        "control.yaml",
        manifest(
          namespace("open", false),
          clientPod("open/client", { node: "node1" }),
          serverPod("open/server", { node: "node2" }),
        ),
      );
      await lab.ready("open/client", 30_000);
      const server = await lab.ready("open/server", 30_000);
      const [host] = server.ips;
      await lab.traffic("open/client", ["short", "--host", host ?? "", "--count", "5", "--concurrency", "1"]);
      const open = new Set((await lab.status()).pods.filter((p) => p.namespace === "open").flatMap((p) => p.ips));
      const packets: readonly Packet[] = await capture.stop();
      const isOpen = (p: Packet): boolean => open.has(p.source) || open.has(p.destination);
      return { plaintext: packets.filter((p) => !isOpen(p)).length, marked: packets.filter(isOpen).length };
    },
  };
}
