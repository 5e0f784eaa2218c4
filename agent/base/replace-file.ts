// Files that are replaced whole: a reader sees the old one or the new one, also after a power cut.
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

export interface ReplaceOptions {
  /** Of the file, whatever the process's umask is; 0600 if absent. */
  readonly mode?: number;
  /** Asked once everything is on the disk, before the file takes its place; absent: it is. */
  readonly isStillWanted?: () => boolean;
}

/**
 * Writes beside `path`, to the disk, and renames into place. Nothing is left beside it if that fails.
 * @param content whole, or in pieces that are taken one after the other: others may run between two
 * @throws what the file system says; `path` is then as it was, or (only its folder failed to be synced) new
 */
export async function replaceFile(
  path: string,
  content: string | Buffer | Iterable<string | Buffer>,
  { mode = 0o600, isStillWanted }: ReplaceOptions = {},
): Promise<void> {
  // Two processes may write one path during a hand-over; and no reader of folders takes this ending for its own.
  const draft = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(draft, "w", mode);
    try {
      await file.chmod(mode);
      if (typeof content === "string" || Buffer.isBuffer(content)) await file.writeFile(content);
      else for (const piece of content) await file.writeFile(piece);
      await file.sync();
    } finally {
      await file.close();
    }
    if (isStillWanted?.() === false) return await rm(draft, { force: true });
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true }).catch(() => undefined);
    throw error;
  }
  const folder = await open(dirname(path), "r");
  await folder.sync().finally(() => folder.close());
}
