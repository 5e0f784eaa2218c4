// The disk form of what discovery knows: one file, checked by a digest. Pure bytes; who writes when is cache.ts.
// "FLDC" | u32 length of the header | header (JSON) | entries, one after the other | end mark | SHA-256 of everything before
// An entry: u8 kind (index into the header's kinds) | u16 length of name | u16 of version | u32 of bytes | name | version | bytes
import { createHash } from "node:crypto";
import {
  decodeResource,
  encodeResource,
  type MeshResource,
  type ResourceKind,
  resourceKinds,
  resourceName,
} from "../api/resources.ts";
import { err, ok, type Result } from "../base/result.ts";
import { newVersions, type Versions } from "./controller-source.ts";

const magic = "FLDC";
const formatVersion = 2;
const entryHead = 9;
const endMark = 255;
/** Pieces are about this long, so that writing a large mesh needs no large buffer. */
const pieceBytes = 65_536;

interface Header {
  readonly format: number;
  readonly savedAtMs: number;
  readonly kinds?: readonly string[];
}
export interface CacheContent {
  readonly savedAtMs: number;
  readonly resources: readonly MeshResource[];
  readonly versions: Versions;
  /** Entries that this version of the agent cannot read; they will be asked for again. */
  readonly skipped: number;
}

/** The file in pieces, to be written in this order. */
export function* encodeCache(
  resources: Iterable<MeshResource>,
  versions: Versions,
  savedAtMs: number,
): Generator<Buffer, void> {
  const hash = createHash("sha256");
  const header: Header = { format: formatVersion, savedAtMs, kinds: resourceKinds };
  const head = Buffer.from(JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.write(magic);
  start.writeUInt32LE(head.length, 4);
  let pieces: Buffer[] = [start, head];
  let length = 0;
  const take = (): Buffer => {
    const piece = Buffer.concat(pieces);
    pieces = [];
    length = 0;
    hash.update(piece);
    return piece;
  };
  for (const resource of resources) {
    const name = resourceName(resource);
    const entry = encodeEntry(resource, name, versions.get(resource.kind)?.get(name) ?? "");
    pieces.push(entry);
    length += entry.length;
    if (length >= pieceBytes) yield take();
  }
  pieces.push(Buffer.of(endMark));
  yield take();
  yield hash.digest();
}

function encodeEntry(resource: MeshResource, name: string, version: string): Buffer {
  const bytes = encodeResource(resource);
  const [nameLength, versionLength] = [Buffer.byteLength(name), Buffer.byteLength(version)];
  const entry = Buffer.allocUnsafe(entryHead + nameLength + versionLength + bytes.length);
  entry.writeUInt8(resourceKinds.indexOf(resource.kind), 0);
  entry.writeUInt16LE(nameLength, 1);
  entry.writeUInt16LE(versionLength, 3);
  entry.writeUInt32LE(bytes.length, 5);
  entry.write(name, entryHead);
  entry.write(version, entryHead + nameLength);
  entry.set(bytes, entryHead + nameLength + versionLength);
  return entry;
}

/** The error says what is wrong with the file; nothing of a broken file is used. */
export function decodeCache(file: Buffer): Result<CacheContent, string> {
  if (file.length < 40 || file.toString("latin1", 0, 4) !== magic) return err("is not a discovery cache");
  const body = file.subarray(0, -32);
  if (!createHash("sha256").update(body).digest().equals(file.subarray(-32)))
    return err("is broken: its digest does not match");
  const headEnd = 8 + body.readUInt32LE(4);
  const header = JSON.parse(body.toString("utf8", 8, headEnd)) as Header;
  if (header.format !== formatVersion) return err(`has format ${header.format}, this agent reads ${formatVersion}`);
  const versions = newVersions();
  const resources: MeshResource[] = [];
  let skipped = 0;
  for (let at = headEnd; body[at] !== endMark; ) {
    const kind = header.kinds?.[body.readUInt8(at)] as ResourceKind;
    const nameAt = at + entryHead;
    const versionAt = nameAt + body.readUInt16LE(at + 1);
    const bytesAt = versionAt + body.readUInt16LE(at + 3);
    const end = bytesAt + body.readUInt32LE(at + 5);
    at = end;
    const decoded = resourceKinds.includes(kind) ? decodeResource(kind, body.subarray(bytesAt, end)) : undefined;
    if (decoded?.ok !== true) {
      skipped++;
      continue;
    }
    resources.push(decoded.value);
    const version = body.toString("utf8", versionAt, bytesAt);
    if (version !== "") versions.get(kind)?.set(body.toString("utf8", nameAt, versionAt), version);
  }
  return ok({ savedAtMs: header.savedAtMs, resources, versions, skipped });
}
