// h2spec against the agent's HTTP/2: its frames come from a pod and end at the agent; behind it is a server of HTTP/2 or of HTTP/1.1.
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, declaredPort, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { goProgram, goVersion } from "../foreign.ts";
import { type Case, counted, failed, type Place, passed, places, type Suite, skipped, withHttpLab } from "../suite.ts";

const server = `const page = Buffer.alloc(100000, "page");
const answer = (q, s) => q.resume().on("end", () => s.end(page)).on("error", () => {});
require("http").createServer(answer).listen(8080, "::");
require("http2").createServer(answer).on("sessionError", () => {}).listen(8081, "::");`;
const versions = [
  { name: "HTTP/2", service: "two", appProtocol: "kubernetes.io/h2c", targetPort: 8081 },
  { name: "HTTP/1.1", service: "one", appProtocol: "http", targetPort: 8080 },
] as const;
/** With --strict; a run that has fewer lost some. */
const CASES = 146;
/** On a port declared http, what does not begin as HTTP/2 does is HTTP/1.1, and refused as such (400, closed); on others it is a bad preface. */
const PREFACE = "http2/3.5 Sends invalid connection preface";

const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    ...places.flatMap(({ node, suffix }) => [
      pod(`shop/${suffix}`, [process.execPath, "-e", server], {
        node,
        container: { readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 } },
      }),
      ...versions.map((v) => {
        const declared = declaredPort(v.appProtocol, v.targetPort);
        return service(`shop/${v.service}-${suffix}`, suffix, {}, declared);
      }),
    ]),
  ),
};

/** The cases of h2spec's JUnit report. */
export function casesOf(xml: string, group: string): Case[] {
  const text = (s: string): string =>
    s
      .replace(/&#x([0-9a-f]+);|&#(\d+);/gi, (_, hex, dec) => String.fromCharCode(Number(hex ? `0x${hex}` : dec)))
      .replaceAll("&lt;", "<")
      .replaceAll("&gt;", ">")
      .replaceAll("&quot;", '"')
      .replaceAll("&amp;", "&");
  return [...xml.matchAll(/<testcase package="([^"]*)" classname="([^"]*)"[^>]*>([\s\S]*?)<\/testcase>/g)].map(
    ([, section = "", what = "", inside = ""]) => {
      const name = `${section} ${text(what)}`;
      return inside === "" ? passed(group, name) : failed(group, name, text(inside.replace(/<[^>]*>/g, " ")));
    },
  );
}

async function runOnce(
  lab: TestLab,
  program: string,
  host: string,
  group: string,
  isHttp2: boolean,
): Promise<readonly Case[]> {
  const command = `"$0" --strict --host "$1" --port 80 --timeout 10 --junit-report /tmp/h2spec.xml >/tmp/h2spec.out 2>&1; cat /tmp/h2spec.xml || cat /tmp/h2spec.out >&2`;
  const done = await lab.run("shop/client", ["sh", "-c", command, program, host], 900_000);
  const cases = casesOf(done.stdout, group);
  if (cases.length >= CASES)
    return cases.map((c) =>
      !isHttp2 && c.name === PREFACE && /looked like an HTTP\/1\.1 header/.test(c.reason ?? "")
        ? skipped(
            group,
            c.name,
            "the port is declared http, where such text is a bad request of HTTP/1.1: the agent answers 400 in HTTP/1.1 and closes, which h2spec does not expect",
          )
        : c,
    );
  return [...cases, failed(group, `all ${CASES} cases`, `only ${cases.length} ran: ${done.stderr}`)];
}

export const h2spec: Suite = {
  name: "h2spec",
  about: "h2spec in strict mode against the HTTP/2 of the client's agent, with servers of both versions behind it",
  async run(say) {
    const program = await goProgram("h2spec");
    const cases: Case[] = [];
    await withHttpLab(manifests, async (lab) => {
      for (const { suffix } of places) await lab.ready(`shop/${suffix}`);
      const one = async (place: Place, version: (typeof versions)[number]): Promise<void> => {
        const group = `server of ${version.name}, ${place.name}`;
        say(group);
        const to = `${version.service}-${place.suffix}`;
        // Most cases break off before a request is whole; about a third ask for the page.
        cases.push(
          ...(await counted(
            lab,
            group,
            to,
            place,
            () => runOnce(lab, program, to, group, version.appProtocol !== "http"),
            () => 30,
          )),
        );
      };
      for (const place of places) for (const version of versions) await one(place, version);
    });
    return { programs: [`h2spec ${goVersion("github.com/summerwind/h2spec")}`], cases };
  },
};
