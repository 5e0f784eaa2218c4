// The cases of Autobahn's test suite for WebSocket, run by kosoku (its own runner needs Python 2): as a client against an echo server through the
// mesh, and as a server that a client visits through the mesh.
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { npmFolder, npmVersion, pythonPrograms, pythonVersion } from "../foreign.ts";
import { type Case, counted, failed, judged, type Place, places, type Suite, withHttpLab } from "../suite.ts";

const peer = fileURLToPath(new URL("../clients/websocket-peer.mjs", import.meta.url));
/** Compression: hundreds of long cases about what is inside of messages, which the mesh does not look at. */
const without = ["-x", "12.*", "-x", "13.*"];
const CASES = 301;

const manifests = (npm: string, kosoku: string): Readonly<Record<string, string>> => {
  const ports = { ports: [{ name: "http", port: 80, targetPort: 8080, appProtocol: "http" }] };
  const container = { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } };
  // Reports are written when the client asks for them, and told where its side can read them: on its standard output.
  const fuzzing = `cd /tmp && "$0" -m fuzzingserver ${without.map((w) => `'${w}'`).join(" ")} -o /tmp/reports 0.0.0.0:8080 &
"$1" -e 'require("http").createServer((q, s) => { try { s.end(fs.readFileSync("/tmp/reports/index.json")) } catch (e) { s.writeHead(503).end(String(e)) } }).listen(8090, "::")' & wait`;
  return {
    "all.yaml": manifest(
      namespace("shop"),
      clientPod("shop/client", { node: "node1" }),
      ...places.flatMap(({ node, suffix }) => [
        pod(`shop/echo-${suffix}`, [process.execPath, peer, "serve", npm, "8080"], { node, container }),
        pod(`shop/fuzz-${suffix}`, ["sh", "-c", fuzzing, kosoku, process.execPath], {
          node,
          container: { readinessProbe: { tcpSocket: { port: 8090 }, periodSeconds: 1 } },
        }),
        service(`shop/echo-${suffix}`, `echo-${suffix}`, {}, ports),
        service(
          `shop/fuzz-${suffix}`,
          `fuzz-${suffix}`,
          {},
          { ports: [...ports.ports, { name: "reports", port: 90, targetPort: 8090 }] },
        ),
      ]),
    ),
  };
};

interface Behaviour {
  readonly behavior: string;
  readonly behaviorClose: string;
}

/** Autobahn's index: agent -> case -> how it behaved. */
function judgeIndex(group: string, text: string, problem: string): readonly Case[] {
  let index: Readonly<Record<string, Readonly<Record<string, Behaviour>>>>;
  try {
    index = JSON.parse(text);
  } catch {
    return [failed(group, "a report", `${text.slice(0, 200)} ${problem}`)];
  }
  const found = Object.values(index).flatMap((agent) => Object.entries(agent));
  const right = (b: string): boolean => b === "OK" || b === "INFORMATIONAL" || b === "NON-STRICT";
  const cases = found.map(([name, b]) =>
    judged(
      group,
      name,
      right(b.behavior) && right(b.behaviorClose) ? undefined : `${b.behavior}, close ${b.behaviorClose}`,
    ),
  );
  const all = cases.length === CASES ? undefined : `${cases.length} ran`;
  return [...cases, judged(group, `all ${CASES} cases`, all)];
}

export const websocket: Suite = {
  name: "websocket",
  about:
    "Autobahn's cases for WebSocket, without compression (chapters 12 and 13: what is inside of messages passes the mesh unseen)",
  async run(say) {
    const python = await pythonPrograms();
    const npm = await npmFolder();
    const cases: Case[] = [];
    await withHttpLab(manifests(npm, `${python}/kosoku`), async (lab: TestLab) => {
      const one = async (place: Place, to: string, what: string, command: readonly string[]): Promise<void> => {
        const group = `${what}, ${place.name}`;
        say(group);
        await lab.ready(`shop/${to}`);
        const run = async (): Promise<readonly Case[]> => {
          const done = await lab.run("shop/client", command, 600_000);
          return judgeIndex(group, done.stdout, done.stderr);
        };
        cases.push(...(await counted(lab, group, to, place, run, () => CASES)));
      };
      for (const place of places) {
        const { suffix } = place;
        const fuzz = `cd /tmp && "$0" -p 4 ${without.map((w) => `'${w}'`).join(" ")} -o /tmp/${suffix} "$1:80" >&2; cat /tmp/${suffix}/index.json`;
        await one(place, `echo-${suffix}`, "fuzzing client to ws", [
          "sh",
          "-c",
          fuzz,
          `${python}/kosoku`,
          `echo-${suffix}`,
        ]);
        const visit = `"$0" "$1" visit "$2" "$3:80" ws >&2 && curl -sS --retry 20 --retry-delay 1 "http://$3:90/"`;
        await one(place, `fuzz-${suffix}`, "ws to fuzzing server", [
          "sh",
          "-c",
          visit,
          process.execPath,
          peer,
          npm,
          `fuzz-${suffix}`,
        ]);
      }
    });
    return { programs: [pythonVersion("kosoku"), npmVersion("ws")], cases };
  },
};
