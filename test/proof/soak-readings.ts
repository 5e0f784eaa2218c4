// What agents hold at a moment of a soak, and whether it stays flat.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { TestLab } from "../kit/lab.ts";
import { type Trend, trendOf } from "./flat.ts";
import { check } from "./proof.ts";

export interface Reading {
  readonly atS: number;
  /** By node. */
  readonly agents: Readonly<
    Record<string, { readonly memoryMb: number; readonly descriptors: number; readonly threads: number }>
  >;
}

/** What the agents of a lab hold now. */
export async function read(lab: TestLab, atS: number): Promise<Reading> {
  const agents: Record<string, Reading["agents"][string]> = {};
  for (const node of (await lab.status()).nodes) {
    const pid = node.agent?.pid;
    check(typeof pid === "number", `the agent of ${node.name} runs`);
    const text = readFileSync(`/proc/${pid}/status`, "latin1");
    const of = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1]);
    agents[node.name] = {
      memoryMb: of("RssAnon") / 1000,
      descriptors: readdirSync(`/proc/${pid}/fd`).length,
      threads: of("Threads"),
    };
  }
  return { atS, agents };
}

export type Figure = keyof Reading["agents"][string];
export const figures: readonly Figure[] = ["memoryMb", "descriptors", "threads"];

/** By node and figure, of the second half. */
export function trends(readings: readonly Reading[]): Record<string, Trend> {
  const found: Record<string, Trend> = {};
  for (const node of Object.keys(readings[0]?.agents ?? {}))
    for (const figure of figures)
      found[`${node} ${figure}`] = trendOf(
        readings.map(({ atS, agents }) => ({ atS, value: agents[node]?.[figure] ?? Number.NaN })),
      );
  return found;
}

/** What may rise in the second half (`riseOf`): MB of anonymous memory (and what it is per hour in a long run); descriptors; threads. */
export const limits = { memoryMb: 4, memoryMbPerHour: 16, descriptors: 10, threads: 1 } as const;

/**
 * What is judged. Of memory and threads the line. Of descriptors the floor: they follow the connections that are open just then, of which
 * clients have twice as many while answers are slow; one that is never closed raises the least of them too.
 */
export const riseOf = (name: string, { rise, floorRise }: Trend): number =>
  name.endsWith("descriptors") ? floorRise : rise;

/** Most that it may rise over so much time. */
export function mostRise(name: string, hours: number): number {
  if (name.endsWith("memoryMb")) return Math.max(limits.memoryMb, limits.memoryMbPerHour * hours);
  return name.endsWith("threads") ? limits.threads : limits.descriptors;
}

/** Descriptors of a process by what they are: sockets, pipes, what epoll and maps are, files. */
export function descriptorKinds(pid: number): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let target: string;
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue; // closed meanwhile
    }
    const kind = target.replace(/:\[\d+\]$/, "");
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return kinds;
}

/** Those of the agents of a lab, by node. */
export async function agentDescriptors(lab: TestLab): Promise<Record<string, Record<string, number>>> {
  const kinds: Record<string, Record<string, number>> = {};
  for (const node of (await lab.status()).nodes)
    if (typeof node.agent?.pid === "number") kinds[node.name] = descriptorKinds(node.agent.pid);
  return kinds;
}
