// Demo step: what passes between the nodes. A marker is sent by meshed pods and, as control, by two pods outside the mesh; the capture must
// show it for the latter only, while the addresses on the wire are the pods' own in both cases.
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { Capture, flows, flowsWith } from "../capture.ts";
import { labStatus } from "../client.ts";
import { type DemoContext, inPod, type Proof } from "./context.ts";

export async function onTheWire(at: DemoContext): Promise<Proof> {
  const status = await labStatus(at.lab);
  if (!status.ok) throw new Error(status.error);
  const addresses = new Map(
    status.value.pods.flatMap((p) => p.ips.map((ip) => [ip, `${p.namespace}/${p.name}`] as const)),
  );
  const marker = `MARKER-${randomBytes(8).toString("hex")}`;
  const capture = await Capture.start(at.paths.routerNetns, "node1", join(at.paths.dir, "demo.pcap"));
  const sent = [
    await inPod(at, "shop/frontend", `curl -sS -4 -m 5 -H "x-note: ${marker}" http://web/`),
    await inPod(at, "shop/frontend", `curl -sS -6 -m 5 -H "x-note: ${marker}" http://web/`),
    await inPod(at, "shop/client", `redis-cli -h cache set note ${marker}; redis-cli -h cache get note`),
    await inPod(at, "shop/client", `psql -h db -U postgres -Atc "select '${marker}'"`),
  ];
  const control = await inPod(
    at,
    "outside/stranger",
    `printf '%s' ${marker} | curl -sS -m 1 telnet://plain.outside:7002`,
    8000,
  );
  const packets = await capture.stop();
  const namesOf = (flow: string): string => {
    const [from = "", to = ""] = flow.split(">").map((end) => end.split("|")[0] ?? "");
    return `${addresses.get(from) ?? from} -> ${addresses.get(to) ?? to}`;
  };
  const seen = [...new Set(flowsWith(packets, marker).map(namesOf))];
  const meshed = [...flows(packets)].filter(([flow]) =>
    namesOf(flow)
      .split(" -> ")
      .every((name) => name.startsWith("shop/")),
  );
  const pairs = [...new Set(meshed.map(([flow]) => namesOf(flow)))].sort();
  const foreign = [
    ...new Set(
      [...flows(packets).keys()]
        .map(namesOf)
        .filter((n) => /\d+\.\d+|::/.test(n) && !n.includes("10.250.") && !n.includes("fd00:250:")),
    ),
  ];
  const delivered = sent.every((s) => s.stdout.includes(marker));
  const clear = seen.filter((n) => n.includes("shop/"));
  const positive = seen.some((n) => n === "outside/stranger -> outside/plain");
  const ok = delivered && clear.length === 0 && positive && pairs.length > 0;
  const bytes = meshed.reduce((sum, [, data]) => sum + data.length, 0);
  const text = ok
    ? `marker delivered ${sent.length} times between meshed pods, on the wire 0 times; between unmeshed pods it is seen (control). ${packets.length} packets, source and destination are the pods' own addresses`
    : `delivered: ${delivered}; in the clear between meshed pods: ${clear.join(", ") || "no"}; control seen: ${positive}; meshed pairs on the wire: ${pairs.length}`;
  return {
    name: "nothing readable between nodes",
    ok,
    text,
    facts: {
      marker,
      packets: packets.length,
      meshedPairs: pairs,
      meshedBytes: bytes,
      clear,
      controlSeen: positive,
      controlError: control.stderr.trim(),
      foreign,
    },
  };
}
