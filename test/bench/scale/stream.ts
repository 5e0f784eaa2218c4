// A played agent's discovery stream as bytes: gRPC frames over HTTP/2 and just as much of the messages as the measure looks at. Two hundred agents
// in one process would measure themselves with a full client; what is the same for all of them is read once.
import { connect } from "node:http2";
import { connect as connectTls, createSecureContext, type SecureContext } from "node:tls";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { AggregatedDiscoveryServiceService, Any, DeltaDiscoveryRequest } from "../../../agent/api/discovery.gen.ts";
import type { Credential } from "../../kit/node-agent.ts";

/** One resource as the stream carries it. */
export interface Entry {
  readonly name: string;
  readonly version: string;
  readonly value: Uint8Array;
}
export interface Heard {
  readonly typeUrl: string;
  readonly nonce: string;
  readonly systemVersion: string;
  /** The same object for every agent that hears the same bytes. */
  readonly entries: readonly Entry[];
  readonly removed: readonly string[];
  readonly bytes: number;
}
export interface Stream {
  write(message: Uint8Array): void;
  close(): void;
}

const { path } = AggregatedDiscoveryServiceService.deltaAggregatedResources;
/** Compressed flag and length. */
const prefixBytes = 5;
/** Entries that are remembered by their bytes. */
const maxKnown = 50_000;
const known = new Map<string, Entry>();

export const secureContext = (rootsPem: string, { chainPem, keyPem }: Credential): SecureContext =>
  createSecureContext({ ca: rootsPem, cert: chainPem, key: keyPem });

/** `ended` is told once, whatever ends it. */
export function openStream(
  address: string,
  context: SecureContext,
  heard: (response: Heard) => void,
  ended: () => void,
): Stream {
  const [host = "", port = ""] = address.split(":");
  const session = connect(`https://${address}`, {
    createConnection: () =>
      connectTls({
        host,
        port: Number(port),
        secureContext: context,
        servername: "fairlead-controller",
        ALPNProtocols: ["h2"],
      }),
    settings: { initialWindowSize: 4 * 1024 * 1024 },
  });
  let hasEnded = false;
  const end = (): void => {
    if (hasEnded) return;
    hasEnded = true;
    session.destroy();
    ended();
  };
  session.on("error", end);
  session.on("close", end);
  const call = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
  });
  const frames = new Frames((message) => heard(read(message)));
  call.on("data", (chunk: Buffer) => frames.push(chunk));
  call.on("error", end);
  call.on("close", end);
  return {
    write(message) {
      const frame = Buffer.alloc(prefixBytes + message.length);
      frame.writeUInt32BE(message.length, 1);
      frame.set(message, prefixBytes);
      call.write(frame);
    },
    close: end,
  };
}

/** Puts chunks together to messages. */
class Frames {
  readonly #message: (message: Buffer) => void;
  #left: Buffer = Buffer.alloc(0);

  constructor(message: (message: Buffer) => void) {
    this.#message = message;
  }
  push(chunk: Buffer): void {
    let bytes = this.#left.length === 0 ? chunk : Buffer.concat([this.#left, chunk]);
    while (bytes.length >= prefixBytes) {
      const end = prefixBytes + bytes.readUInt32BE(1);
      if (bytes.length < end) break;
      this.#message(bytes.subarray(prefixBytes, end));
      bytes = bytes.subarray(end);
    }
    this.#left = bytes;
  }
}

export const subscribing = (typeUrl: string, versions: ReadonlyMap<string, string>): Uint8Array =>
  DeltaDiscoveryRequest.encode(
    DeltaDiscoveryRequest.create({
      typeUrl,
      initialResourceVersions: Object.fromEntries([...versions].sort(([a], [b]) => (a < b ? -1 : 1))),
    }),
  ).finish();
/** Field numbers as in discovery.proto. */
export const acknowledging = ({ typeUrl, nonce }: Heard): Uint8Array =>
  new BinaryWriter().uint32(18).string(typeUrl).uint32(50).string(nonce).finish();

function read(message: Buffer): Heard {
  const reader = new BinaryReader(message);
  const heard = { typeUrl: "", nonce: "", systemVersion: "", entries: [] as Entry[], removed: [] as string[] };
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === 10) heard.systemVersion = reader.string();
    else if (tag === 18) heard.entries.push(entryOf(reader.bytes()));
    else if (tag === 34) heard.typeUrl = reader.string();
    else if (tag === 42) heard.nonce = reader.string();
    else if (tag === 50) heard.removed.push(reader.string());
    else reader.skip(tag & 7);
  }
  return { ...heard, bytes: message.length };
}

function entryOf(bytes: Uint8Array): Entry {
  const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
  let entry = known.get(key);
  if (entry === undefined) {
    entry = readEntry(bytes);
    if (known.size >= maxKnown) known.clear();
    known.set(key, entry);
  }
  return entry;
}

function readEntry(bytes: Uint8Array): Entry {
  const reader = new BinaryReader(bytes);
  let [name, version, value] = ["", "", new Uint8Array()];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === 10) version = reader.string();
    // Its own bytes: a view would keep the whole message.
    else if (tag === 18) value = Any.decode(reader.bytes()).value.slice();
    else if (tag === 26) name = reader.string();
    else reader.skip(tag & 7);
  }
  return { name, version, value };
}
