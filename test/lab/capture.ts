// Captures packets on the link between nodes (tcpdump in the router's namespace) and reads the capture: which addresses talked, and whether given bytes passed.
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ended } from "./command.ts";
import { sizeOf } from "./files.ts";
import { netnsPath } from "./paths.ts";

export interface Packet {
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly protocol: "tcp" | "udp" | "other";
  readonly payload: Buffer;
}

const LINK_ETHERNET = 1;

/** Reads a pcap file (microseconds or nanoseconds, this machine's byte order, Ethernet). @throws Error for anything else */
export function readPcap(file: Buffer): Packet[] {
  if (file.length < 24) return [];
  const magic = file.readUInt32LE(0);
  if (magic !== 0xa1b2c3d4 && magic !== 0xa1b23c4d)
    throw new Error("capture: not a pcap file of this machine's byte order");
  if (file.readUInt32LE(20) !== LINK_ETHERNET)
    throw new Error(`capture: link type ${file.readUInt32LE(20)} is not Ethernet`);
  const packets: Packet[] = [];
  for (let at = 24; at + 16 <= file.length; ) {
    const length = file.readUInt32LE(at + 8);
    const packet = ofFrame(file.subarray(at + 16, at + 16 + length));
    if (packet !== undefined) packets.push(packet);
    at += 16 + length;
  }
  return packets;
}

function ofFrame(frame: Buffer): Packet | undefined {
  if (frame.length < 34) return undefined;
  const type = frame.readUInt16BE(12);
  const ip = frame.subarray(14);
  if (type === 0x0800) {
    const header = ((ip[0] ?? 0) & 15) * 4;
    const text = (at: number): string => [...ip.subarray(at, at + 4)].join(".");
    return ofSegment(text(12), text(16), ip[9] ?? 0, ip.subarray(header, Math.max(ip.readUInt16BE(2), header)));
  }
  if (type === 0x86dd && ip.length >= 40)
    return ofSegment(
      v6Text(ip.subarray(8, 24)),
      v6Text(ip.subarray(24, 40)),
      ip[6] ?? 0,
      ip.subarray(40, 40 + ip.readUInt16BE(4)),
    );
  return undefined;
}

function ofSegment(source: string, destination: string, protocol: number, segment: Buffer): Packet {
  const ports = segment.length >= 4 && (protocol === 6 || protocol === 17);
  const header = protocol === 6 && segment.length >= 13 ? ((segment[12] ?? 0) >> 4) * 4 : protocol === 17 ? 8 : 0;
  return {
    source,
    destination,
    sourcePort: ports ? segment.readUInt16BE(0) : 0,
    destinationPort: ports ? segment.readUInt16BE(2) : 0,
    protocol: protocol === 6 ? "tcp" : protocol === 17 ? "udp" : "other",
    payload: segment.subarray(header),
  };
}

/** Shortest text of an IPv6 address (RFC 5952), so that it compares with what the lab gives out. */
function v6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2).toString(16));
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}

/** Payload of each direction of each flow, in the order of arrival, so that text split over packets is still found. */
export function flows(packets: readonly Packet[]): Map<string, Buffer> {
  const parts = new Map<string, Buffer[]>();
  for (const p of packets) {
    if (p.payload.length === 0) continue;
    const key = `${p.source}|${p.sourcePort}>${p.destination}|${p.destinationPort}`;
    const list = parts.get(key) ?? [];
    list.push(p.payload);
    parts.set(key, list);
  }
  return new Map([...parts].map(([key, list]) => [key, Buffer.concat(list)]));
}

/** Flows in which the text passed in the clear. */
export function flowsWith(packets: readonly Packet[], text: string): string[] {
  return [...flows(packets)].filter(([, bytes]) => bytes.includes(text)).map(([key]) => key);
}

/** A running capture of one interface of a namespace. */
export class Capture {
  readonly #child: ChildProcess;
  readonly #file: string;

  private constructor(child: ChildProcess, file: string) {
    this.#child = child;
    this.#file = file;
  }

  /** Starts tcpdump and waits until it listens. @param filter tcpdump's own language, e.g. "tcp" */
  static async start(netns: string, link: string, file: string, filter = "tcp"): Promise<Capture> {
    const argv = [
      `--net=${netnsPath(netns)}`,
      "--",
      "tcpdump",
      "-i",
      link,
      "-U",
      "--immediate-mode", // else packets wait up to a second in the kernel's block

      "-s",
      "0",
      "-B",
      "16384",
      "-w",
      file,
      "-Z",
      "root",
      ...filter.split(" "),
    ];
    const child = spawn("nsenter", argv, { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    await new Promise<void>((resolve, reject) => {
      child.stderr.on("data", (b: Buffer) => {
        said += b.toString();
        if (said.includes("listening on")) resolve();
      });
      child.once("error", reject);
      child.once("exit", () => reject(new Error(`tcpdump: ${said.trim()}`)));
    });
    return new Capture(child, file);
  }

  /** Ends the capture and reads it, once the file has stopped growing: tcpdump may be behind on a busy machine. */
  async stop(): Promise<Packet[]> {
    for (let before = -1; before !== sizeOf(this.#file); ) {
      before = sizeOf(this.#file);
      await sleep(250);
    }
    this.#child.kill("SIGINT");
    await ended(this.#child);
    return readPcap(readFileSync(this.#file));
  }
}
