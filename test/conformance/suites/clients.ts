// HTTP clients and servers of many makers, each with each: versions translated where they differ, judged visit by visit, and against the same pair
// without a mesh where the client itself does something else.
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, declaredPort, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { faultOf, staticVisits, visits, type Wanted, writePlan } from "../clients/plan.ts";
import {
  goProgram,
  javaClient,
  npmFolder,
  npmVersion,
  pythonPrograms,
  pythonVersion,
  systemProgram,
} from "../foreign.ts";
import { type Case, counted, failed, type Place, passed, places, type Suite, skipped, withHttpLab } from "../suite.ts";

const programOf = (file: string): string => fileURLToPath(new URL(`../clients/${file}`, import.meta.url));

interface Client {
  readonly name: string;
  /** What it speaks by itself. */
  readonly version: 1 | 2;
  /** Base of the URLs and plan are put behind it, then `last`. */
  readonly command: readonly string[];
  readonly last?: string;
}
interface Server {
  readonly name: string;
  readonly command: readonly string[];
  readonly visits: readonly Wanted[];
}

const versions = [
  { version: 1, name: "HTTP/1.1", targetPort: 8080, appProtocol: "http" },
  { version: 2, name: "HTTP/2", targetPort: 8081, appProtocol: "kubernetes.io/h2c" },
] as const;

const nginx = `mkdir -p /tmp/www/bytes
"$0" -e 'for (const n of [0, 10, 1000, 2000000]) fs.writeFileSync("/tmp/www/bytes/" + n, Uint8Array.from({ length: n }, (_, i) => i % 251))'
cat > /tmp/nginx.conf <<END
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /tmp/nginx.log; user root;
events {}
http {
  access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  map \\$http_x_there \\$back { "" \\$request_uri; default \\$http_x_there; }
  server {
    listen [::]:8080 ipv6only=off; listen [::]:8081 ipv6only=off http2; root /tmp/www;
    location /back { add_header x-back \\$back; return 200 ""; }
    location /status/204 { return 204; }
  }
}
END
exec nginx -c /tmp/nginx.conf`;

const clientsOf = (folders: { go: string; python: string; npm: string; java: string }): readonly Client[] => {
  const node = (name: string, version: 1 | 2, which: string): Client => ({
    name,
    version,
    command: [process.execPath, programOf("node-client.ts"), which],
    last: folders.npm,
  });
  const shell = (name: string, version: 1 | 2, which: string): Client => ({
    name,
    version,
    command: [process.execPath, programOf("command-client.ts"), which],
  });
  const python = (name: string, version: 1 | 2, which: string): Client => ({
    name,
    version,
    command: [`${folders.python}/python`, programOf("client.py"), which],
  });
  return [
    node("node:http", 1, "http"),
    node("node:http2", 2, "http2"),
    node("fetch of Node", 1, "fetch"),
    node("undici, HTTP/2", 2, "undici"),
    shell("curl, HTTP/1.1", 1, "curl1"),
    shell("curl, HTTP/2", 2, "curl2"),
    shell("nghttp", 2, "nghttp"),
    python("python-requests", 1, "requests"),
    python("httpx, HTTP/2", 2, "httpx"),
    { name: "Java, HTTP/1.1", version: 1, command: ["java", "-cp", folders.java, "PlanClient", "http1"] },
    // Without TLS it asks for an upgrade, which no server here takes up and the mesh does not pass on.
    { name: "Java, asking for h2c", version: 1, command: ["java", "-cp", folders.java, "PlanClient", "http2"] },
    { name: "Go net/http, HTTP/1.1", version: 1, command: [folders.go, "http1"] },
    { name: "Go net/http, HTTP/2", version: 2, command: [folders.go, "http2"] },
  ];
};

const serviceOf = (server: Server, version: number, suffix: string): string => `${server.name}-${version}-${suffix}`;
const ready = { readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 } };
const manifestsOf = (servers: readonly Server[]): Readonly<Record<string, string>> => ({
  "all.yaml": manifest(
    namespace("shop"),
    namespace("plain", false),
    clientPod("shop/client", { node: "node1" }),
    clientPod("plain/client", { node: "node1" }),
    ...servers.map((s) => pod(`plain/${s.name}`, s.command, { node: "node1", container: ready })),
    ...places.flatMap(({ node, suffix }) =>
      servers.flatMap((s) => [
        pod(`shop/${s.name}-${suffix}`, s.command, { node, container: ready }),
        ...versions.map((v) => {
          const declared = declaredPort(v.appProtocol, v.targetPort);
          return service(`shop/${serviceOf(s, v.version, suffix)}`, `${s.name}-${suffix}`, {}, declared);
        }),
      ]),
    ),
  ),
});

/** Clients that run at once: most of their time is their own start. */
const AT_ONCE = 4;

/** What `each` makes of all, a few at once, in their order. */
async function together<T, R>(all: readonly T[], each: (one: T) => Promise<R>): Promise<R[]> {
  const made: R[] = [];
  let next = 0;
  const turns = Array.from({ length: AT_ONCE }, async () => {
    for (let i = next++; i < all.length; i = next++) made[i] = await each(all[i] as T);
  });
  await Promise.all(turns);
  return made;
}

type Lines = ReadonlyMap<string, readonly string[]>;
async function visit(
  lab: TestLab,
  from: string,
  client: Client,
  base: string,
  wanted: readonly Wanted[],
): Promise<Lines> {
  const last = client.last === undefined ? [] : [client.last];
  const done = await lab.run(from, [...client.command, base, writePlan(wanted), ...last], 300_000);
  const lines = done.stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => line.split("\t"));
  return new Map([["", [done.stderr.slice(-300)]], ...lines.map((l): [string, string[]] => [l[0] ?? "", l])]);
}

/** What came through the mesh against what is right, and against what the same client makes of the same server without it. */
function judge(group: string, want: Wanted, seen: Lines, plain: Lines): Case {
  const line = seen.get(want.name);
  if (line === undefined) return failed(group, want.name, `the client ended before it: ${seen.get("")?.[0] ?? ""}`);
  if (line[1] === "cannot") return skipped(group, want.name, line[2] ?? "");
  const fault = faultOf(want, line);
  if (fault === undefined) return passed(group, want.name);
  const without = plain.get(want.name) ?? [];
  const own = faultOf(want, without);
  if (own === undefined || without[1] !== line[1]) return failed(group, want.name, fault);
  return skipped(group, want.name, `the same without a mesh: ${own.slice(0, 120)}`);
}

async function prepare(): Promise<{
  clients: readonly Client[];
  servers: readonly Server[];
  programs: readonly string[];
}> {
  const [go, goServer, python, npm, java] = [
    await goProgram("plan-client"),
    await goProgram("plan-server"),
    await pythonPrograms(),
    await npmFolder(),
    await javaClient(),
  ];
  const own = await Promise.all([
    systemProgram(["curl", "--version"], "curl"),
    systemProgram(["nghttp", "--version"], "nghttp2-client"),
    systemProgram(["nginx", "-v"], "nginx-light"),
    systemProgram(["go", "version"], "Go"),
  ]);
  const servers: readonly Server[] = [
    { name: "node", command: [process.execPath, programOf("node-server.ts")], visits },
    { name: "go", command: [goServer], visits },
    { name: "nginx", command: ["sh", "-ec", nginx, process.execPath], visits: staticVisits },
  ];
  const libraries = [npmVersion("undici"), pythonVersion("requests"), pythonVersion("httpx"), java.version];
  return {
    clients: clientsOf({ go, python, npm, java: java.folder }),
    servers,
    programs: [`Node ${process.versions.node} (fetch: undici ${process.versions.undici})`, ...libraries, ...own],
  };
}

export const clients: Suite = {
  name: "clients",
  about: "HTTP clients and servers of many makers, each with each, over services of both versions",
  async run(say) {
    const { clients: all, servers, programs } = await prepare();
    const cases: Case[] = [];
    await withHttpLab(manifestsOf(servers), async (lab) => {
      const plain = new Map<string, Lines>();
      for (const s of servers) {
        const host = (await lab.ready(`plain/${s.name}`)).ips[0] ?? "";
        for (const { suffix } of places) await lab.ready(`shop/${s.name}-${suffix}`);
        say(`${s.name}, without a mesh`);
        await together(all, async (c) => {
          const base = `http://${host.includes(":") ? `[${host}]` : host}:${c.version === 1 ? 8080 : 8081}`;
          plain.set(`${c.name} ${s.name}`, await visit(lab, "plain/client", c, base, s.visits));
        });
      }
      const service = async (place: Place, s: Server, version: (typeof versions)[number]): Promise<void> => {
        const what = `${s.name}, ${version.name}, ${place.name}`;
        say(what);
        const to = serviceOf(s, version.version, place.suffix);
        const run = async (): Promise<readonly Case[]> => {
          const seen = await together(all, (c) => visit(lab, "shop/client", c, `http://${to}`, s.visits));
          return all.flatMap((c, i) => {
            const own = plain.get(`${c.name} ${s.name}`) ?? new Map();
            return s.visits.map((v) => judge(`${c.name} to ${what}`, v, seen[i] ?? new Map(), own));
          });
        };
        const least = (of: readonly Case[]): number => of.filter((x) => x.outcome === "passed").length;
        cases.push(...(await counted(lab, `all clients to ${what}`, to, place, run, least)));
      };
      for (const place of places)
        for (const s of servers) for (const version of versions) await service(place, s, version);
    });
    return { programs, cases };
  },
};
