// `npm run bench:l4`: measures no mesh, the peers and ours in interleaved rounds and writes rows (JSON), docs/benchmarks.md and its plot.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { interleave } from "./interleave.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { type Options, readOptions, runBench, say, tellRows } from "./options.ts";
import { PROJECT } from "./peers.ts";
import { drawPlot } from "./plot.ts";
import { benchmarksPage, machineFacts } from "./report.ts";
import { measures, type Row, rowOf } from "./rows.ts";
import { steps } from "./steps.ts";
import { removeLeftovers } from "./topology.ts";
import { startBare, type VariantName } from "./variants.ts";
import { observe, type Wire } from "./wire.ts";

const usage = `npm run bench:l4 -- [--json FILE] [--rounds N] [--seconds S] [--only STEP[,STEP]] [--quick] [--peers-only]
steps: ${steps.map((s) => s.name).join(", ")}`;
const names = [...steps.map((s) => s.name), ...measures.map((m) => m.measure)];
const peersOnly = "peers-only";

/** The row that says what a capture between the nodes showed; throws if the positive control fails or a peer is not on TLS 1.3. */
function wireRow(wires: ReadonlyMap<VariantName, Wire>): Row {
  if ((wires.get("none")?.markers ?? 0) === 0)
    throw new Error("the capture does not show the marker without a mesh: it proves nothing");
  for (const [name, wire] of wires)
    if (name !== "none" && (wire.ciphers.length === 0 || wire.olderHandshakes > 0))
      throw new Error(`${name}: no TLS 1.3 handshake on the wire`);
  const peers = Object.fromEntries(
    [...wires].filter(([name]) => name !== "ours").map(([name, wire]) => [name, wire.markers]),
  );
  const ours = wires.get("ours")?.markers ?? Number.NaN;
  const rounds = Object.fromEntries([...wires].map(([name, wire]) => [name, [wire.markers]]));
  const note = [...wires]
    .filter(([name]) => name !== "none")
    .map(([name, wire]) => `${name} ${wire.ciphers.join("+")}`)
    .join(", ");
  const goal = { op: "<=", value: 0 } as const;
  return {
    measure: "on the wire between nodes: marker readable",
    unit: "times",
    ours,
    peers,
    goal,
    ratio: ours,
    met: ours === 0,
    rounds,
    spread: {},
    note,
  };
}

function write(o: Options, rows: readonly Row[], facts: ReturnType<typeof machineFacts>): void {
  tellRows(rows, o.json);
  if (o.quick || o.only !== undefined || o.flags.has(peersOnly)) return;
  const page = join(PROJECT, "docs/benchmarks.md");
  const previous = existsSync(page) ? readFileSync(page, "utf8") : "";
  writeFileSync(page, benchmarksPage(rows, facts, o.rounds, o.seconds, previous));
  writeFileSync(
    join(PROJECT, "docs/benchmarks-l4.svg"),
    drawPlot(rows, `${facts.cpu}, ${facts.cores} cores, Linux ${facts.kernel}; ${o.rounds} rounds, medians`),
  );
}

async function main(): Promise<void> {
  const o = readOptions(usage, names, [peersOnly]);
  const only = o.only?.map((name) => measures.find((m) => m.measure === name)?.step ?? name);
  const withMesh = !o.flags.has(peersOnly);
  if (process.getuid?.() !== 0) throw new Error("the benchmark needs root (network namespaces and eBPF)");
  await removeLeftovers();
  const bare = await startBare(say);
  let mesh: Mesh | undefined;
  const down = async (): Promise<void> => {
    await mesh?.down();
    await bare.down();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () => void down().finally(() => process.exit(130)));
  try {
    const facts = machineFacts(bare.versions);
    if (facts.load > 0.5) say(`load average ${facts.load}: something else is running; absolute numbers will suffer`);
    if (withMesh) mesh = await startMesh(say);
    const variants = [...bare.variants, ...(mesh?.variants ?? [])];
    const wires = new Map<VariantName, Wire>();
    const capture = bare.topology.onNode(1, "capture").cgroup;
    for (const v of variants.filter((x) => x.name !== "bypass"))
      wires.set(v.name, await observe(v, capture, bare.topology.dir));
    const wire = wireRow(wires);
    say(`wire: ${wire.note}; marker readable: ${JSON.stringify(wire.rounds)}`);
    const { samples } = await interleave(
      steps.filter((step) => only === undefined || only.includes(step.name)),
      variants,
      o,
      say,
    );
    const rows = measures.map((m) => rowOf(m, samples)).filter((row) => row !== undefined);
    write(o, withMesh ? [...rows, wire] : rows, facts);
  } catch (error) {
    if (mesh !== undefined) say(mesh.logs());
    throw error;
  } finally {
    await down();
  }
}

await runBench("bench:l4", main);
