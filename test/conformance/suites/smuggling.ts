// The corpus of ambiguous requests through the mesh to a server that writes down every byte: what reached it is compared with the RFC's verdict.
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { authorization, clientPod, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { readStrictly, type StrictRequest } from "../../kit/strict-http1.ts";
import { type Http2Case, http2Cases, type RawCase, rawCases, type Verdict } from "../corpus.ts";
import { pythonPrograms, pythonVersion } from "../foreign.ts";
import { type Case, counted, judged, type Place, places, type Suite, textOf, withHttpLab } from "../suite.ts";

const programOf = (file: string): string => fileURLToPath(new URL(`../clients/${file}`, import.meta.url));
const port = (name: string, at: number, targetPort: number, appProtocol: string) => ({
  name,
  port: at,
  targetPort,
  appProtocol,
});
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    // A policy about requests: with none, bytes that are not HTTP at all are carried as what they are, one connection to one server.
    authorization("shop/all", {
      action: "ALLOW",
      rules: [{ to: [{ operation: { paths: ["/*"] } }] }, { to: [{ operation: { ports: ["8090"] } }] }],
    }),
    ...places.flatMap(({ node, suffix }) => [
      pod(`shop/${suffix}`, [process.execPath, programOf("recorder.ts")], {
        node,
        container: { readinessProbe: { tcpSocket: { port: 8090 }, periodSeconds: 1 } },
      }),
      service(`shop/${suffix}`, suffix, {}, { ports: [port("http", 80, 8080, "http"), port("take", 90, 8090, "tcp")] }),
    ]),
  ),
};

interface Outcome {
  readonly name: string;
  readonly answer: string;
  readonly arrived: readonly string[];
}

/** Whole requests in what each connection of the server brought. @throws Error where the server's reader finds anything doubtful */
function requestsOf(arrived: readonly string[]): { readonly whole: readonly StrictRequest[]; readonly rest: string } {
  const whole: StrictRequest[] = [];
  let rest = "";
  for (const text of arrived) {
    let bytes = Buffer.from(text, "latin1");
    for (let next = readStrictly(bytes); next !== undefined; next = readStrictly(bytes)) {
      whole.push(next);
      bytes = bytes.subarray(next.length);
    }
    rest += bytes.toString("latin1");
  }
  return { whole, rest };
}

/** Why what happened is not what the RFC asks for; undefined if it is. */
export function smuggled(verdict: Verdict, { answer, arrived }: Outcome): string | undefined {
  let seen: ReturnType<typeof requestsOf>;
  try {
    seen = requestsOf(arrived);
  } catch (e) {
    return `the server got what can be read in two ways: ${textOf(e)}`;
  }
  const at = JSON.stringify({ answer: answer.slice(0, 60), arrived }).slice(0, 400);
  const isRefused = /^HTTP\/1\.[01] [45]\d\d |^status [45]\d\d$|^RST_STREAM [^0]|^GOAWAY [^0]|^closed$|^$/.test(answer);
  if (verdict.kind === "refuse" || (verdict.kind === "either" && isRefused && seen.whole.length === 0)) {
    if (seen.whole.length > 0) return `a request reached the server: ${at}`;
    if (seen.rest.includes("/smuggled HTTP")) return `its hidden request reached the server: ${at}`;
    return isRefused ? undefined : `not refused: ${at}`;
  }
  const targets = seen.whole.map((r) => (r.host === "a" ? r.target : r.host + r.target));
  // Requests of one pipeline may be carried by several connections; what counts is what they are.
  const same =
    JSON.stringify([targets, seen.whole.map((r) => r.body)]) === JSON.stringify([verdict.targets, verdict.bodies]);
  return same && seen.rest === "" ? undefined : `other requests reached the server: ${at}`;
}

function judgeAll(
  group: string,
  cases: readonly (RawCase | Http2Case)[],
  said: string,
  problem: string,
): readonly Case[] {
  const outcomes = said
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Outcome);
  return cases.map((c, i) => {
    const outcome = outcomes[i];
    const name = `RFC ${c.rule}: ${c.name}`;
    if (outcome?.name !== c.name) return judged(group, name, `the client ended before it: ${problem}`);
    return judged(group, name, smuggled(c.verdict, outcome));
  });
}

export const smuggling: Suite = {
  name: "smuggling",
  about:
    "requests that two readers might take for different ones: refused, or forwarded so that a strict reader sees what the RFC means",
  async run(say) {
    const python = await pythonPrograms();
    const cases: Case[] = [];
    const certain = (of: readonly { readonly verdict: Verdict }[]): number =>
      of.filter((c) => c.verdict.kind === "seen").length;
    await withHttpLab(manifests, async (lab: TestLab) => {
      for (const { suffix } of places) await lab.ready(`shop/${suffix}`);
      const one = async (
        place: Place,
        what: string,
        list: readonly (RawCase | Http2Case)[],
        command: readonly string[],
      ) => {
        const group = `${what}, ${place.name}`;
        say(group);
        const run = async (): Promise<readonly Case[]> => {
          const done = await lab.run("shop/client", command, 600_000);
          return judgeAll(group, list, done.stdout, done.stderr);
        };
        cases.push(...(await counted(lab, group, place.suffix, place, run, () => certain(list))));
      };
      for (const place of places) {
        await one(place, "HTTP/1.1", rawCases, [process.execPath, programOf("raw-client.ts"), place.suffix]);
        const frames = [`${python}/python`, programOf("http2_raw.py"), place.suffix, JSON.stringify(http2Cases)];
        await one(place, "HTTP/2 to a server of HTTP/1.1", http2Cases, frames);
      }
    });
    return { programs: [`corpus of ${rawCases.length} and ${http2Cases.length} requests`, pythonVersion("h2")], cases };
  },
};
