// Proof: real, unmodified programs on every path, one table; the greeting of a server that speaks first against the same without mesh; a
// long session of OpenSSH that goes on over restarts of both agents.
import { setTimeout as sleep } from "node:timers/promises";
import { table } from "../../cli/table.ts";
import { type TestLab, withLab } from "../kit/lab.ts";
import { manifest } from "../kit/manifests.ts";
import { programPods, programServers } from "../kit/program-servers.ts";
import { chat, greetings, realPrograms, sshSession, visitOf, type Way, ways } from "../kit/programs.ts";
import { check, type Proof } from "./proof.ts";

interface Row {
  readonly program: string;
  readonly path: string;
  readonly family: string;
  readonly held: boolean;
  readonly seen: string;
}

const rowOf = (program: string, way: Way, held: boolean, seen: string): Row => ({
  program,
  path: way.path,
  family: `IPv${way.family}`,
  held,
  seen,
});

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const ms = (value: number): string => `${value.toFixed(2)} ms`;

/** Most that the mesh may add to the time until a server's greeting is there. */
const MOST_ADDED_MS = 5;

/** Medians with and without the mesh, measured in turn so that both see the same machine. */
async function greetingTimes(lab: TestLab, way: Way, rounds: number): Promise<Row> {
  const meshed: number[] = [];
  const direct: number[] = [];
  for (let i = 0; i < rounds; i++) {
    direct.push(...(await greetings(await visitOf(lab, way, "plain/greeter", "plain"), 50)));
    meshed.push(...(await greetings(await visitOf(lab, way, "shop/greeter"), 50)));
  }
  const added = median(meshed) - median(direct);
  const seen = `median ${ms(median(meshed))}, without mesh ${ms(median(direct))}, ${meshed.length} connections each`;
  return rowOf("greeting within 5 ms of direct", way, added <= MOST_ADDED_MS, seen);
}

/** Lines to and fro all the time, and two replacements of each agent meanwhile. */
async function longSession(lab: TestLab, way: Way, seconds: number): Promise<Row> {
  const session = await sshSession(await visitOf(lab, way, "shop/ssh"));
  const began = performance.now();
  let lines = 0;
  let restarts = 0;
  try {
    for (const node of ["node1", "node2", "node1", "node2"]) {
      const until = performance.now() + (seconds * 1000) / 5;
      while (performance.now() < until) {
        await chat(session, lines, 20, 50);
        lines += 20;
      }
      await lab.agent(node, "replace");
      restarts++;
    }
    await sleep(1000);
    await chat(session, lines, 20);
    const code = await session.end("");
    const took = Math.round((performance.now() - began) / 1000);
    return rowOf(
      "OpenSSH, long session",
      way,
      code === 0,
      `${lines + 20} lines in ${took} s, ${restarts} agents replaced`,
    );
  } catch (e) {
    session.child.kill("SIGKILL");
    return rowOf("OpenSSH, long session", way, false, `after ${lines} lines and ${restarts} restarts: ${textOf(e)}`);
  }
}

const textOf = (e: unknown): string => (e instanceof Error ? e.message : String(e)).split("\n")[0] ?? "";

export const programs: Proof = {
  name: "programs",
  about: "real programs unchanged on every path; a server's greeting within 5 ms of direct; a long SSH session",
  async run({ scale, say }) {
    const rows: Row[] = [];
    await withLab({ "all.yaml": manifest(...programPods) }, {}, async (lab) => {
      for (const server of programServers) await lab.ready(server, 60_000);
      for (const program of realPrograms) {
        say(program.name);
        for (const way of ways) {
          const done = await program.visit(await visitOf(lab, way, program.server)).then(
            (seen) => ({ held: true, seen }),
            (e) => ({ held: false, seen: textOf(e) }),
          );
          rows.push(rowOf(program.name, way, done.held, done.seen));
        }
      }
      for (const way of ways) {
        say(`greeting, ${way.path}, IPv${way.family}`);
        rows.push(await greetingTimes(lab, way, Math.max(2, Math.round(10 * scale))));
      }
      for (const way of ways.filter((w) => w.client === "far")) {
        say(`OpenSSH, long session, IPv${way.family}`);
        rows.push(await longSession(lab, way, Math.max(5, 120 * scale)));
      }
    });
    const cells = rows.map((r) => [r.program, r.path, r.family, r.held ? "ok" : "FAILED", r.seen]);
    console.error(table(["PROGRAM", "PATH", "FAMILY", "", "SEEN"], cells, false));
    const broken = rows.filter((r) => !r.held);
    check(broken.length === 0, `${broken.length} of ${rows.length}: ${broken.map((r) => r.program).join(", ")}`);
    return { rows };
  },
};
