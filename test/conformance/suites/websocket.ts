// The cases of Autobahn's test suite for WebSocket, run by kosoku (its own runner needs Python 2) as a client against an echo server through the mesh.
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, declaredPort, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { npmFolder, npmVersion, pythonPrograms, pythonVersion } from "../foreign.ts";
import { type Case, counted, failed, judged, type Place, places, type Suite, withHttpLab } from "../suite.ts";

const programOf = (file: string): string => fileURLToPath(new URL(`../clients/${file}`, import.meta.url));
const echo = programOf("websocket-echo.mjs");
const bridge = programOf("websocket-bridge.mjs");
/** Compression: hundreds of long cases about what is inside of messages, which the mesh does not look at. */
const without = "-x '12.*' -x '13.*'";
const CASES = 301;

const servers = [
  { version: 1, targetPort: 8080, appProtocol: "http" },
  { version: 2, targetPort: 8081, appProtocol: "kubernetes.io/h2c" },
] as const;

/** Versions of HTTP that the client's and the server's side speak, and where. Translated ones take the longer way alone. */
const runs = [
  { from: 1, to: 1, place: places[0] as Place },
  { from: 1, to: 1, place: places[1] as Place },
  { from: 1, to: 2, place: places[1] as Place },
  { from: 2, to: 1, place: places[1] as Place },
] as const;

const manifests = (npm: string): Readonly<Record<string, string>> => ({
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    ...places.flatMap(({ node, suffix }) => [
      pod(`shop/echo-${suffix}`, [process.execPath, echo, npm, "8080", "8081"], {
        node,
        container: { readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 } },
      }),
      ...servers.map((s) => {
        const declared = declaredPort(s.appProtocol, s.targetPort);
        return service(`shop/echo${s.version}-${suffix}`, `echo-${suffix}`, {}, declared);
      }),
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
    "Autobahn's cases for WebSocket, also where client and server speak different versions of HTTP (RFC 8441), without compression (chapters 12 and 13: what is inside of messages passes the mesh unseen)",
  async run(say) {
    const python = await pythonPrograms();
    const npm = await npmFolder();
    const cases: Case[] = [];
    await withHttpLab(manifests(npm), async (lab: TestLab) => {
      const one = async ({ from, to: version, place }: (typeof runs)[number]): Promise<void> => {
        const group = `fuzzing client over HTTP/${from} to ws over HTTP/${version}, ${place.name}`;
        say(group);
        await lab.ready(`shop/echo-${place.suffix}`);
        const to = `echo${version}-${place.suffix}`;
        const report = `/tmp/${from}${to}`;
        const fuzz = `cd /tmp
if [ "$2" = 2 ]; then
  "$3" "$4" 9001 "$1" & bridge=$!
  trap 'kill $bridge' EXIT
  until "$3" -e 'net.connect(9001, "127.0.0.1").on("error", () => process.exit(1)).on("connect", () => process.exit(0))'; do sleep 0.1; done
  at=127.0.0.1:9001
else at=$1:80; fi
"$0" -p 4 ${without} -o ${report} "$at" >&2; cat ${report}/index.json`;
        const command = ["sh", "-c", fuzz, `${python}/kosoku`, to, `${from}`, process.execPath, bridge];
        const run = async (): Promise<readonly Case[]> => {
          const done = await lab.run("shop/client", command, 900_000);
          return judgeIndex(group, done.stdout, done.stderr);
        };
        cases.push(...(await counted(lab, group, to, place, run, () => CASES)));
      };
      for (const each of runs) await one(each);
    });
    const node = `Node ${process.versions.node} (HTTP/2 of both sides)`;
    return { programs: [pythonVersion("kosoku"), npmVersion("ws"), node], cases };
  },
};
