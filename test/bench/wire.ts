// Proof of what is on the wire between the nodes: a marker sent in the clear by the client, searched for in a capture, and the TLS version and cipher of the handshake.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ended } from "../lab/command.ts";
import { runIn, startIn } from "./place.ts";
import type { Variant } from "./variants.ts";

const suites: Readonly<Record<string, string>> = {
  "1301": "TLS_AES_128_GCM_SHA256",
  "1302": "TLS_AES_256_GCM_SHA384",
  "1303": "TLS_CHACHA20_POLY1305_SHA256",
};

export interface Wire {
  /** Times that the marker is readable between the nodes. */
  readonly markers: number;
  /** Cipher suites of TLS 1.3 handshakes seen. */
  readonly ciphers: readonly string[];
  /** Handshakes that chose another version. */
  readonly olderHandshakes: number;
}

/** ServerHello: record 22, handshake 2, 32 random bytes, session id, suite, compression 0, then extensions with supported_versions = 0x0304 (RFC 8446 section 4.1.3). */
function handshakes(capture: Buffer): Pick<Wire, "ciphers" | "olderHandshakes"> {
  const ciphers = new Set<string>();
  let olderHandshakes = 0;
  for (let at = capture.indexOf("160303", 0, "hex"); at >= 0; at = capture.indexOf("160303", at + 1, "hex")) {
    const length = capture.length - at > 5 ? capture.readUInt16BE(at + 3) : 0;
    if (length < 44 || capture[at + 5] !== 2 || capture[at + 6] !== 0 || capture.readUInt16BE(at + 9) !== 0x0303)
      continue;
    const suiteAt = at + 44 + (capture[at + 43] ?? 0);
    const extensions = capture.subarray(suiteAt + 3, at + 5 + length);
    if (extensions.includes(Buffer.from("002b00020304", "hex"))) {
      const suite = capture.subarray(suiteAt, suiteAt + 2).toString("hex");
      ciphers.add(suites[suite] ?? suite);
    } else olderHandshakes++;
  }
  return { ciphers: [...ciphers].sort(), olderHandshakes };
}

/** Sends a marker through a variant while capturing on the router between the nodes. @param dir scratch folder */
export async function observe(v: Variant, captureCgroup: string, dir: string): Promise<Wire> {
  const file = join(dir, `${v.name}.pcap`);
  const place = { cgroup: captureCgroup, netns: v.router };
  const log = join(dir, `tcpdump-${v.name}.log`);
  const tcpdump = startIn(
    place,
    ["tcpdump", "--immediate-mode", "-Z", "root", "-i", "node2", "-s", "0", "-U", "-w", file, "tcp"],
    log,
  );
  for (let waited = 0; waited < 5000 && !readFileSync(log, "utf8").includes("listening on"); waited += 20)
    await sleep(20);
  await sleep(200);
  const marker = `marker-${v.name}-${"plainly-readable".repeat(2)}`;
  const answer = await runIn(v.far, [
    "curl",
    "-sS",
    "-m",
    "10",
    "-H",
    `X-Marker: ${marker}`,
    `http://${v.coldHttp()}/`,
  ]);
  if (answer.length !== 1024)
    throw new Error(`${v.name}: the marked request got ${answer.length} bytes instead of 1024`);
  await sleep(300);
  tcpdump.kill("SIGINT");
  await ended(tcpdump);
  const capture = readFileSync(file);
  let markers = 0;
  for (let at = capture.indexOf(marker); at >= 0; at = capture.indexOf(marker, at + 1)) markers++;
  return { markers, ...handshakes(capture) };
}
