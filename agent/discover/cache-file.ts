// The disk form of what discovery knows: one file, checked by a digest. Pure bytes; who writes when is cache.ts.
// "FLDC" | u32 length of the header | header (JSON) | payloads, one after the other | SHA-256 of everything before
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
const formatVersion = 1;

interface Header {
  readonly format: number;
  readonly savedAtMs: number;
  /** [kind, name, version, bytes] in the order of the payloads. */
  readonly entries: readonly (readonly [ResourceKind, string, string, number])[];
}
export interface CacheContent {
  readonly savedAtMs: number;
  readonly resources: readonly MeshResource[];
  readonly versions: Versions;
  /** Entries that this version of the agent cannot read; they will be asked for again. */
  readonly skipped: number;
}

export function encodeCache(resources: Iterable<MeshResource>, versions: Versions, savedAtMs: number): Buffer {
  const entries: [ResourceKind, string, string, number][] = [];
  const payloads: Uint8Array[] = [];
  for (const resource of resources) {
    const bytes = encodeResource(resource);
    const name = resourceName(resource);
    entries.push([resource.kind, name, versions.get(resource.kind)?.get(name) ?? "", bytes.length]);
    payloads.push(bytes);
  }
  const header: Header = { format: formatVersion, savedAtMs, entries };
  const head = Buffer.from(JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.write(magic);
  start.writeUInt32LE(head.length, 4);
  const body = Buffer.concat([start, head, ...payloads]);
  return Buffer.concat([body, createHash("sha256").update(body).digest()]);
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
  let at = headEnd;
  for (const [kind, name, version, length] of header.entries) {
    const bytes = body.subarray(at, at + length);
    at += length;
    const decoded = resourceKinds.includes(kind) ? decodeResource(kind, bytes) : undefined;
    if (decoded?.ok !== true) {
      skipped++;
      continue;
    }
    resources.push(decoded.value);
    if (version !== "") versions.get(kind)?.set(name, version);
  }
  return ok({ savedAtMs: header.savedAtMs, resources, versions, skipped });
}
