// The cases of Autobahn's test suite for WebSocket, run by kosoku (its own runner needs Python 2) as a client against an echo server through the mesh.
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { npmFolder, npmVersion, pythonPrograms, pythonVersion } from "../foreign.ts";
import { type Case, counted, failed, judged, type Place, places, type Suite, withHttpLab } from "../suite.ts";

const echo = fileURLToPath(new URL("../clients/websocket-echo.mjs", import.meta.url));
/** Compression: hundreds of long cases about what is inside of messages, which the mesh does not look at. */
const without = "-x '12.*' -x '13.*'";
const CASES = 301;

const manifests = (npm: string): Readonly<Record<string, string>> => ({
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    ...places.flatMap(({ node, suffix }) => [
      pod(`shop/echo-${suffix}`, [process.execPath, echo, npm, "8080"], {
        node,
        container: { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } },
      }),
      service(
        `shop/echo-${suffix}`,
        `echo-${suffix}`,
        {},
        { ports: [{ name: "http", port: 80, targetPort: 8080, appProtocol: "http" }] },
      ),
    ]),
  ),
});

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
  return [...cases, judged(group, `all ${CASES} cases`, cases.length === CASES ? undefined : `${cases.length} ran`)];
}

export const websocket: Suite = {
  name: "websocket",
  about:
    "Autobahn's cases for WebSocket, without compression (chapters 12 and 13: what is inside of messages passes the mesh unseen)",
  async run(say) {
    const python = await pythonPrograms();
    const npm = await npmFolder();
    const cases: Case[] = [];
    await withHttpLab(manifests(npm), async (lab: TestLab) => {
      const one = async (place: Place): Promise<void> => {
        const group = `fuzzing client to ws, ${place.name}`;
        say(group);
        const to = `echo-${place.suffix}`;
        await lab.ready(`shop/${to}`);
        const fuzz = `cd /tmp && "$0" -p 4 ${without} -o /tmp/${to} "$1:80" >&2; cat /tmp/${to}/index.json`;
        const run = async (): Promise<readonly Case[]> => {
          const done = await lab.run("shop/client", ["sh", "-c", fuzz, `${python}/kosoku`, to], 600_000);
          return judgeIndex(group, done.stdout, done.stderr);
        };
        cases.push(...(await counted(lab, group, to, place, run, () => CASES)));
      };
      for (const place of places) await one(place);
    });
    return { programs: [pythonVersion("kosoku"), npmVersion("ws")], cases };
  },
};
