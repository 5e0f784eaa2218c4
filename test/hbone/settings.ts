// What the HBONE peers of the native tests are told (one JSON argument) and how they report (one JSON line each).
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

export interface PeerSettings {
  readonly scenario: string;
  readonly host: string;
  readonly port: number;
  /** Files in PEM. */
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
  readonly alpn?: readonly string[];
  /** "tls": the one version that is offered; absent: 1.3 and before. */
  readonly version?: "TLSv1.2";
  readonly authority?: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly streams?: number;
  readonly bytes?: number;
  readonly maxStreams?: number;
  readonly status?: number;
  /** "forward": the port of this host that streams are carried to. */
  readonly to?: number;
  /** "http": the request up to its body. */
  readonly head?: string;
  /** Milliseconds between GOAWAY and our end of the stream. */
  readonly delay?: number;
}

export function settings(): PeerSettings {
  const text = process.argv[2];
  if (text === undefined) throw new Error("give the settings as one JSON argument");
  return JSON.parse(text) as PeerSettings;
}

export function credentials(s: PeerSettings): { ca: Buffer; cert?: Buffer; key?: Buffer } {
  return {
    ca: readFileSync(s.ca),
    ...(s.cert === undefined ? {} : { cert: readFileSync(s.cert) }),
    ...(s.key === undefined ? {} : { key: readFileSync(s.key) }),
  };
}

export function report(line: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Bytes that differ by stream and place, so that a swap or a loss changes the hash (xorshift32). */
export function pattern(seed: number, length: number): Buffer {
  const out = Buffer.allocUnsafe(length);
  let x = (seed * 2654435761 + 1) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    out[i] = x & 0xff;
  }
  return out;
}

export function sha256(data: Buffer): string {
  return createHash("sha256").update(data).digest("hex");
}
