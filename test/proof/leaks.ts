// What a run must leave as it found it: descriptors of agents, sockets in pods, rows of kernel maps. Reads /proc, ss and bpftool.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { TestLab } from "../kit/lab.ts";
import { waitFor } from "../kit/wait.ts";
import { finish } from "../lab/command.ts";

/** Counts by name; equal before and after when nothing leaked. */
export type Holdings = Readonly<Record<string, number>>;

/** Maps whose rows belong to single connections: they must be empty (or as before) when all connections have ended. */
const CONNECTION_MAPS = ["outbound_rows", "admissions", "own_syns", "probe_rows"] as const;

async function rowsOf(pinDir: string): Promise<Record<string, number>> {
  const found = await finish(["find", pinDir, "-type", "f"]);
  const rows: Record<string, number> = {};
  for (const path of found.stdout.split("\n").filter(Boolean)) {
    const name = path.split("/").at(-1) ?? "";
    if (!CONNECTION_MAPS.some((m) => name.startsWith(m.slice(0, 15)))) continue;
    const dump = await finish(["bpftool", "-j", "map", "dump", "pinned", path]);
    if (dump.code !== 0) continue;
    const parsed: unknown = JSON.parse(dump.stdout || "[]");
    rows[name] = (rows[name] ?? 0) + (Array.isArray(parsed) ? parsed.length : 0);
  }
  return rows;
}

const descriptors = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

export async function holdings(lab: TestLab): Promise<Holdings> {
  const status = await lab.status();
  const counts: Record<string, number> = {};
  for (const node of status.nodes) {
    const pid = node.agent?.pid;
    if (typeof pid === "number") counts[`descriptors of the agent of ${node.name}`] = descriptors(pid);
    for (const [map, rows] of Object.entries(await rowsOf(join(lab.node(node.name).pinDir))))
      counts[`rows of ${map} on ${node.name}`] = rows;
  }
  for (const p of status.pods) {
    const listed = await finish([
      "nsenter",
      `--net=${p.netns}`,
      "ss",
      "-Htan",
      "state",
      "connected",
      "exclude",
      "time-wait",
    ]);
    counts[`sockets in ${p.namespace}/${p.name}`] = listed.stdout.split("\n").filter(Boolean).length;
  }
  return counts;
}

/**
 * Waits until nothing is held beyond what was there before, allowing `slack` per count (idle tunnels that the pool keeps on purpose).
 * @returns what is held beyond, empty when nothing leaked
 */
export async function beyond(lab: TestLab, before: Holdings, slack: number, timeoutMs = 60_000): Promise<Holdings> {
  let over: Record<string, number> = {};
  try {
    await waitFor(
      "nothing held beyond the start",
      async () => {
        const now = await holdings(lab);
        over = Object.fromEntries(
          Object.entries(now)
            .map(([name, n]) => [name, n - (before[name] ?? 0)] as const)
            .filter(([name, n]) => n > (name.startsWith("rows") ? 0 : slack)),
        );
        return Object.keys(over).length === 0;
      },
      timeoutMs,
    );
  } catch {
    // the caller judges what is left
  }
  return over;
}
