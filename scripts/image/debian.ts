// The distribution's part of an image: files of Debian packages, each pinned by version and SHA-256 (debian.lock), fetched by the
// distribution's own apt and kept for all checkouts of this machine.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { finish, run } from "../../test/lab/command.ts";
import { folderTree, type TreeEntry } from "./tar.ts";

export interface Pin {
  readonly name: string;
  readonly version: string;
  /** Of the .deb file, in hexadecimal. */
  readonly sha256: string;
}

export interface Fetched extends Pin {
  readonly file: string;
}

/** How missing pins are treated: refused, or replaced by what the distribution offers now, which is told. */
export type Strictness = "pinned" | "offered";

/** Lines "NAME VERSION SHA256"; "#" begins a comment. @throws Error naming the line */
export function parsePins(text: string): readonly Pin[] {
  return text.split("\n").flatMap((line, i) => {
    if (line.trim() === "" || line.startsWith("#")) return [];
    const [name = "", version = "", sha256 = "", more] = line.trim().split(/\s+/);
    if (!/^[a-z0-9][a-z0-9+.-]+$/.test(name) || version === "" || !/^[0-9a-f]{64}$/.test(sha256) || more !== undefined)
      throw new Error(`debian.lock, line ${i + 1}: ${JSON.stringify(line)} is not NAME VERSION SHA256`);
    return [{ name, version, sha256 }];
  });
}

export const pinLine = (pin: Pin): string => `${pin.name} ${pin.version} ${pin.sha256}`;

/** What apt calls this machine's kind, e.g. "amd64". */
export const debianArchitecture = async (): Promise<string> => (await run(["dpkg", "--print-architecture"])).trim();

/** Runs apt-get download in `folder`. @returns whether apt had all of them */
const download = async (folder: string, wanted: readonly string[]): Promise<boolean> =>
  (
    await finish(["/bin/sh", "-c", 'cd "$0" && exec apt-get download -qq "$@"', folder, ...wanted], {
      timeoutMs: 600_000,
    })
  ).code === 0;

const pinned = (pin: Pin): string => `${pin.name}=${pin.version}`;

/**
 * Files of packages, from the cache or from apt, in the order of the pins.
 * @throws Error if something pinned is not offered or is not what was pinned, saying how to pin anew
 */
export async function fetchPackages(
  cache: string,
  pins: readonly Pin[],
  architecture: string,
  strictness: Strictness,
  say: (line: string) => void,
): Promise<readonly Fetched[]> {
  mkdirSync(cache, { recursive: true });
  const keptAs = (p: Pin): string => join(cache, `${p.name}_${architecture}_${p.sha256}.deb`);
  const missing = pins.filter((pin) => !existsSync(keptAs(pin)));
  const others = new Map<string, Pin>();
  if (missing.length > 0) {
    const folder = mkdtempSync(join(cache, ".deb-"));
    try {
      say(`fetching ${missing.map(pinned).join(" ")}`);
      await downloadAll(folder, missing, strictness, say);
      for (const name of readdirSync(folder).filter((n) => n.endsWith(".deb"))) {
        const got = await identify(join(folder, name));
        const pin = missing.find((p) => p.name === got.name);
        if (pin?.version === got.version && pin.sha256 !== got.sha256)
          throw new Error(
            `Debian package ${pinned(pin)} has the digest ${got.sha256}, and ${pin.sha256} is pinned: do not use it`,
          );
        if (pin?.version !== got.version) others.set(got.name, got);
        renameSync(join(folder, name), keptAs(got));
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return pins.map((pin) => {
    const got = others.get(pin.name) ?? pin;
    return { ...got, file: keptAs(got) };
  });
}

async function identify(file: string): Promise<Pin> {
  const [name = "", version = ""] = (
    await run(["dpkg-deb", "--show", "--showformat=$" + "{Package} $" + "{Version}", file])
  ).split(" ");
  return { name, version, sha256: createHash("sha256").update(readFileSync(file)).digest("hex") };
}

/** All at once; then, with apt's lists read anew, one by one, so that one that is gone is told by its name. */
async function downloadAll(
  folder: string,
  missing: readonly Pin[],
  strictness: Strictness,
  say: (line: string) => void,
): Promise<void> {
  if (await download(folder, missing.map(pinned))) return;
  await finish(["apt-get", "update", "-qq"], { timeoutMs: 300_000 });
  if (await download(folder, missing.map(pinned))) return;
  for (const pin of missing) {
    if (await download(folder, [pinned(pin)])) continue;
    if (strictness === "pinned" || !(await download(folder, [pin.name])))
      throw new Error(
        `Debian package ${pinned(pin)} is not to be had: npm run image -- --update-pins takes what is offered now`,
      );
    say(`${pinned(pin)} is not offered any more, what is offered is taken; npm run image -- --update-pins pins it`);
  }
}

/** What a running program needs of a package: programs, libraries and licences. Not the tables of character sets, which take more than all else. */
const isNeeded = (path: string): boolean =>
  (/^(usr\/)?(lib|lib64|sbin)\//.test(path) && !/\/(gconv|audit|systemd|bash-completion)\//.test(path)) ||
  /^usr\/share\/doc\/[^/]+\/copyright$/.test(path);

/** Files of a package, unpacked below `scratch`, with a record of it where scanners look (as distroless images have it). */
export async function packageFiles(fetched: Fetched, scratch: string): Promise<TreeEntry[]> {
  const folder = mkdtempSync(join(scratch, `${fetched.name}-`));
  await run(["dpkg-deb", "--extract", fetched.file, folder]);
  const control = Buffer.from(await run(["dpkg-deb", "--field", fetched.file]));
  const files = folderTree(folder).filter((e) => e.type !== "folder" && isNeeded(e.path));
  const path = `var/lib/dpkg/status.d/${fetched.name}`;
  return [...files, { path, type: "file", mode: 0o644, size: control.length, content: { bytes: control } }];
}
