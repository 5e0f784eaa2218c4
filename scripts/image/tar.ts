// Tar archives (POSIX ustar, pax records for long names) that depend on contents alone: sorted, owned by root, without times.
import { createReadStream, lstatSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";

const BLOCK = 512;
/** A size has eleven octal digits. */
const MAX_SIZE = 8 ** 11;
/** Two empty blocks end an archive. */
const END = Buffer.alloc(2 * BLOCK);

export interface TarEntry {
  /** Without a leading slash. */
  readonly path: string;
  readonly type: "file" | "folder" | "link";
  readonly mode: number;
  readonly size: number;
  /** Target of a link. */
  readonly target?: string;
}

/** An entry with its contents: a file's are those of another file, or given. */
export interface TreeEntry extends TarEntry {
  readonly content?: { readonly file: string } | { readonly bytes: Buffer };
}

const typeFlags = { file: "0", folder: "5", link: "2" } as const;
const padding = (size: number): Buffer => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);

function header(name: string, entry: Pick<TarEntry, "mode" | "size">, typeFlag: string, target: string): Buffer {
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, width: number): void => {
    block.write(value.toString(8).padStart(width - 1, "0"), at, "ascii");
  };
  block.write(name.slice(0, 100), 0, "utf8");
  octal(entry.mode & 0o7777, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(entry.size, 124, 12);
  octal(0, 136, 12);
  block.write("        ", 148, "ascii");
  block.write(typeFlag, 156, "ascii");
  block.write(target.slice(0, 100), 157, "utf8");
  block.write("ustar\u000000", 257, "latin1");
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** "LENGTH key=value\n", where LENGTH counts itself. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = Buffer.byteLength(rest);
  while (String(length).length + Buffer.byteLength(rest) !== length)
    length = String(length).length + Buffer.byteLength(rest);
  return `${length}${rest}`;
}

/** What stands before an entry's bytes. Names that ustar has no room for, or that are not ASCII, go into pax records. */
export function entryHeader(entry: TarEntry): Buffer {
  const path = entry.type === "folder" ? `${entry.path}/` : entry.path;
  const target = entry.target ?? "";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII is what is asked for
  const fits = (text: string): boolean => Buffer.byteLength(text) <= 100 && /^[\x00-\x7f]*$/.test(text);
  const records = [
    ...(fits(path) ? [] : [paxRecord("path", path)]),
    ...(fits(target) ? [] : [paxRecord("linkpath", target)]),
  ].join("");
  const own = header(fits(path) ? path : "long", entry, typeFlags[entry.type], fits(target) ? target : "long");
  if (records === "") return own;
  const size = Buffer.byteLength(records);
  const pax = header("pax", { mode: 0o644, size }, "x", "");
  return Buffer.concat([pax, Buffer.from(records), padding(size), own]);
}

/** Entries of a folder, parents before what is in them. @throws Error for a device, socket or pipe */
export function folderEntries(folder: string, below = ""): TarEntry[] {
  const names = readdirSync(join(folder, below)).sort((a, b) => (a < b ? -1 : 1));
  return names.flatMap((name): TarEntry[] => {
    const path = below === "" ? name : `${below}/${name}`;
    const at = join(folder, path);
    const stat = lstatSync(at);
    const mode = stat.mode & 0o7777;
    if (stat.isSymbolicLink()) return [{ path, type: "link", mode: 0o777, size: 0, target: readlinkSync(at) }];
    if (stat.isDirectory()) return [{ path, type: "folder", mode, size: 0 }, ...folderEntries(folder, path)];
    if (stat.size >= MAX_SIZE) throw new Error(`${at}: files of 8 GiB and more cannot be in an image`);
    if (stat.isFile()) return [{ path, type: "file", mode, size: stat.size }];
    throw new Error(`${at}: only files, folders and symbolic links can be in an image`);
  });
}

/** A folder's entries with their contents. @throws Error for a device, socket or pipe */
export const folderTree = (folder: string): TreeEntry[] =>
  folderEntries(folder).map((entry) =>
    entry.type === "file" ? { ...entry, content: { file: join(folder, entry.path) } } : entry,
  );

/** The archive of a folder's contents, piece by piece. @throws Error if a file changes its size meanwhile */
export async function* folderTar(folder: string): AsyncGenerator<Buffer> {
  yield* treeTar(folderTree(folder));
}

/** The archive of what is given, in its order, piece by piece. @throws Error if a file changes its size meanwhile */
export async function* treeTar(tree: readonly TreeEntry[]): AsyncGenerator<Buffer> {
  for (const entry of tree) {
    yield entryHeader(entry);
    if (entry.type !== "file" || entry.content === undefined) continue;
    let size = 0;
    for await (const piece of contentOf(entry.content)) {
      size += piece.length;
      yield piece;
    }
    if (size !== entry.size) throw new Error(`${entry.path} changed while it was read`);
    yield padding(size);
  }
  yield END;
}

const contentOf = (content: NonNullable<TreeEntry["content"]>): AsyncIterable<Buffer> | Iterable<Buffer> =>
  "bytes" in content ? [content.bytes] : createReadStream(content.file, { highWaterMark: 1 << 20 });

/** An archive of files that are given whole or in pieces. */
export async function* filesTar(
  files: readonly {
    readonly path: string;
    readonly size: number;
    readonly pieces: AsyncIterable<Buffer> | Iterable<Buffer>;
  }[],
): AsyncGenerator<Buffer> {
  for (const file of files) {
    yield entryHeader({ path: file.path, type: "file", mode: 0o644, size: file.size });
    yield* file.pieces;
    yield padding(file.size);
  }
  yield END;
}
