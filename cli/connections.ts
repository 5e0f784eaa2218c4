// `fairlead connections` and `fairlead top`: open connections and those that just ended, once or as a live table.
import { setTimeout as sleep } from "node:timers/promises";
import type { Fields } from "../test/lab/objects.ts";
import { type Call, type Command, wholeNumber } from "./command.ts";
import { gather, jsonOption, meshOptions, number, shortIdentity, text, withMesh } from "./mesh.ts";
import { type RequestLine, type RequestSums, requestLines, requestTable, sumsOf } from "./requests.ts";
import { bytes, cell, duration, table } from "./table.ts";
import type { MeshView } from "./view.ts";

/** One line of the table: all connections of a pair on a lane. */
export interface Line {
  readonly source: string;
  readonly destination: string;
  readonly lane: string;
  readonly open: number;
  readonly ended: number;
  readonly refused: number;
  readonly sent: number;
  readonly received: number;
  readonly readyMs: number;
}

/** Groups records and open connections by pair and lane. A tunnelled connection is told by both ends; its destination's half is left out. */
export function linesOf(open: readonly Fields[], records: readonly Fields[]): Line[] {
  const lines = new Map<string, Line & { readonly ready: number[] }>();
  const add = (source: string, destination: string, lane: string, change: Partial<Line>, ready?: number): void => {
    const key = `${source}|${destination}|${lane}`;
    const old = lines.get(key) ?? {
      source,
      destination,
      lane,
      open: 0,
      ended: 0,
      refused: 0,
      sent: 0,
      received: 0,
      readyMs: 0,
      ready: [],
    };
    const sum = (field: "open" | "ended" | "refused" | "sent" | "received"): number =>
      old[field] + (change[field] ?? 0);
    if (ready !== undefined) old.ready.push(ready);
    lines.set(key, {
      ...old,
      open: sum("open"),
      ended: sum("ended"),
      refused: sum("refused"),
      sent: sum("sent"),
      received: sum("received"),
    });
  };
  const isOther = (lane: string, direction: string, sourceKnown: boolean): boolean =>
    direction === "inbound" && sourceKnown && lane !== "direct";
  for (const c of open) {
    const lane = text(c.lane);
    if (isOther(lane, text(c.direction), text(c.sourceIdentity) !== "")) continue;
    add(
      text(c.sourceWorkload) || text(c.source),
      text(c.service) || text(c.destinationWorkload) || text(c.destination),
      lane,
      { open: 1, sent: number(c.sent), received: number(c.received) },
    );
  }
  for (const r of records) {
    const lane = text(r.lane);
    if (isOther(lane, text(r.direction), text(r["src.identity"]) !== "")) continue;
    const refused = lane === "none";
    const change = {
      ended: refused ? 0 : 1,
      refused: refused ? 1 : 0,
      sent: number(r.sent),
      received: number(r.received),
    };
    add(
      text(r["src.workload"]) || text(r["src.addr"]).replace(/:\d+$/, ""),
      text(r["dst.service"]) || text(r["dst.workload"]) || text(r["dst.addr"]),
      lane,
      change,
      refused ? undefined : number(r.ready_us) / 1000,
    );
  }
  return [...lines.values()]
    .map(({ ready, ...line }) => ({ ...line, readyMs: ready.sort((a, b) => a - b)[Math.floor(ready.length / 2)] ?? 0 }))
    .sort((a, b) => b.open + b.ended - (a.open + a.ended));
}

interface Look {
  readonly lines: readonly Line[];
  readonly requests: RequestSums;
  readonly silent: readonly string[];
}

async function look(mesh: MeshView): Promise<Look> {
  const [open, ended, requests] = await Promise.all([
    gather(mesh, "/v1/connections", "connections"),
    gather(mesh, "/v1/records?limit=1000", "records"),
    gather(mesh, "/v1/requests", "requests"),
  ]);
  return { lines: linesOf(open.rows, ended.rows), requests: sumsOf(requests.rows, Date.now()), silent: open.silent };
}

/** Requests of the HTTP lane are counted one by one: their connections have no bytes of their own to show. */
const isPerRequest = (line: Line): boolean => line.lane === "http" && line.sent === 0 && line.received === 0;

export const draw = (lines: readonly Line[], colour: boolean): string =>
  table(
    ["SOURCE", "DESTINATION", "LANE", "OPEN", "ENDED", "REFUSED", "SENT", "RECEIVED", "READY"],
    lines.map((l) => [
      l.source,
      l.destination,
      cell(l.lane, l.lane === "none" ? "red" : l.lane === "plain" ? "yellow" : "green"),
      text(l.open),
      text(l.ended),
      cell(text(l.refused), l.refused > 0 ? "red" : "grey"),
      ...(isPerRequest(l) ? ["-", "-", "-"] : [bytes(l.sent), bytes(l.received), duration(l.readyMs)]),
    ]),
    colour,
  );

export const top: Command = {
  name: "top",
  usage: "top [--once] [--interval SECONDS] [--lab NAME | --context NAME] [--json]",
  summary: "Live table of who talks to whom, from the agents: open, ended and refused connections, and HTTP requests.",
  options: {
    ...meshOptions,
    once: { type: "boolean", help: "print once and end" },
    interval: { type: "string", value: "SECONDS", help: "between two looks (default 2)" },
    json: jsonOption,
  },
  run: (call) => withMesh(call, (mesh) => follow(mesh, call)),
};

async function follow(mesh: MeshView, call: Call): Promise<number> {
  const every = wholeNumber(call, "interval", 2, 1, 3600);
  const live = process.stdout.isTTY && !call.flag("once") && !call.flag("json");
  let before: RequestSums | undefined;
  for (;;) {
    const { lines, requests: sums, silent } = await look(mesh);
    const requests = requestLines(sums, before);
    before = sums;
    if (call.flag("json")) call.output.out(JSON.stringify({ ...mesh.named, lines, requests, silent }));
    else show(lines, requests, live, call);
    for (const line of silent) call.output.err(line);
    if (call.flag("once") || !live) return 0;
    await sleep(every * 1000);
  }
}

function show(lines: readonly Line[], requests: readonly RequestLine[], live: boolean, call: Call): void {
  const { out, colour } = call.output;
  const rows = live ? Math.max((process.stdout.rows ?? 40) - 5, 6) : Number.POSITIVE_INFINITY;
  const half = Math.ceil(rows / 2);
  const shown = requests.slice(0, Math.max(half, rows - lines.length));
  const text = draw(lines.slice(0, rows - shown.length), colour);
  const below = shown.length === 0 ? "" : `\n\n${requestTable(shown, colour)}`;
  const head = live ? `\u001b[H\u001b[2J${new Date().toISOString().slice(11, 19)}  ${lines.length} pairs\n` : "";
  out(`${head}${text}${below}`);
}

export const connections: Command = {
  name: "connections",
  usage: "connections [--ended N] [--lab NAME | --context NAME] [--json]",
  summary: "Every open connection that the agents carry; with --ended the last N that ended.",
  options: {
    ...meshOptions,
    ended: { type: "string", value: "N", help: "show the last N ended connections of each node instead" },
    json: jsonOption,
  },
  run: (call) => withMesh(call, (mesh) => list(mesh, call)),
};

async function list(mesh: MeshView, call: Call): Promise<number> {
  const ended = wholeNumber(call, "ended", 0, 1, 1000);
  const { rows, silent } =
    ended > 0
      ? await gather(mesh, `/v1/records?limit=${ended}`, "records")
      : await gather(mesh, "/v1/connections", "connections");
  if (call.flag("json")) call.output.out(JSON.stringify({ ...mesh.named, connections: rows, silent }, null, 2));
  else if (ended > 0) call.output.out(endedTable(rows, call));
  else call.output.out(openTable(rows, call));
  for (const line of silent) call.output.err(line);
  return silent.length === 0 ? 0 : 1;
}

const openTable = (rows: readonly Fields[], call: Call): string =>
  table(
    ["NODE", "DIRECTION", "LANE", "SOURCE", "DESTINATION", "IDENTITY", "SENT", "RECEIVED", "AGE"],
    rows.map((c) => [
      text(c.node),
      text(c.direction),
      text(c.lane),
      text(c.sourceWorkload) || text(c.source),
      text(c.service) || text(c.destinationWorkload) || text(c.destination),
      shortIdentity(c.sourceIdentity ?? c.identity),
      bytes(number(c.sent)),
      bytes(number(c.received)),
      duration(Date.now() - number(c.startedMs)),
    ]),
    call.output.colour,
  );

const endedTable = (rows: readonly Fields[], call: Call): string =>
  table(
    ["TIME", "NODE", "DIRECTION", "LANE", "SOURCE", "DESTINATION", "SENT", "RECEIVED", "TOOK", "REASON", "POLICY"],
    rows
      .toSorted((a, b) => text(a.time).localeCompare(text(b.time)))
      .map((r) => [
        text(r.time).slice(11, 23),
        text(r.node),
        text(r.direction),
        text(r.lane),
        text(r["src.workload"]) || text(r["src.addr"]),
        text(r["dst.service"]) || text(r["dst.workload"]) || text(r["dst.addr"]),
        bytes(number(r.sent)),
        bytes(number(r.received)),
        duration(number(r.duration_us) / 1000),
        text(r.reason),
        text(r.policy),
      ]),
    call.output.colour,
  );
