// A pod that speaks HBONE by itself (Node's own http2 over TLS, nothing of ours), and pods of the mesh, through real agents:
// both directions, identities checked, L4 policy applied, everything told by records, metrics and `explain`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { explainPair } from "../../cli/explain.ts";
import { labView } from "../../cli/mesh.ts";
import { pattern, sha256 } from "../hbone/settings.ts";
import { eventOf, type LeafWishes, PeerCertificates, type PeerFiles, startPeer } from "../kit/hbone.ts";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  manifest,
  namespace,
  peerAuthentication,
  serverPod,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const speaks = { annotations: { "fairlead.dev/protocol": "hbone" } };
const manifests = {
  "mesh.yaml": manifest(
    namespace("shop"),
    serverPod("shop/web", { node: "node1" }),
    clientPod("shop/near", { node: "node1" }),
    clientPod("shop/beside", { node: "node2" }),
    service("shop/web", "web", { 7002: 7002 }),
    peerAuthentication("shop/strict", "STRICT"),
    authorization("shop/no-banned", {
      action: "DENY",
      rules: [{ from: [{ source: { principals: ["cluster.local/ns/hb/sa/banned"] } }] }],
    }),
  ),
  "peers.yaml": manifest(
    namespace("hb", false),
    clientPod("hb/echo", { node: "node2", ...speaks }),
    clientPod("hb/banned", { node: "node2", ...speaks }),
    service("hb/echo", "echo", { 9000: 9000 }),
  ),
};
const id = (where: string, account: string): string => `spiffe://cluster.local/ns/${where}/sa/${account}`;
const anywhere = { host: "::", port: 15008, scenario: "echo" } as const;
type Row = Readonly<Record<string, unknown>>;

const recordOf = (lab: TestLab, node: string, what: string, matches: (row: Row) => boolean): Promise<Row> =>
  waitFor(`a record on ${node}: ${what}`, async () => (await lab.records(node)).find(matches));

/** The counter of refused handshakes, as it is scraped. */
const refused = (lab: TestLab, node: string, direction: string, reason: string): Promise<number> =>
  lab.metric(node, "fairlead_handshakes_refused_total", `direction="${direction}"`, `reason="${reason}"`);

/** Sends as many bytes to an echo and ends; "same" if they came back, else why not. */
const echoed = async (lab: TestLab, from: string, host: string, port: number, bytes = 300_000): Promise<string> => {
  // A reset is told once, to whichever of the two threads asks first.
  const program = `import socket,threading,os
d=os.urandom(${bytes}); reset=[]
try:
  s=socket.create_connection((${JSON.stringify(host)},${port}),60); s.settimeout(60)
  def send():
    try: s.sendall(d); s.shutdown(1)
    except ConnectionResetError as e: reset.append(e)
    except OSError: pass
  sender=threading.Thread(target=send); sender.start()
  got=s.makefile("rb").read(); sender.join()
  if reset: raise reset[0]
  print("same" if got==d else "other")
except OSError as e: print(type(e).__name__)`;
  const done = await lab.run(from, ["python3", "-c", program]);
  return done.stdout.trim() || done.stderr;
};

/** A client in a pod asks for `authority`; what became of it: a status with the bytes, or the TLS error. */
async function asks(lab: TestLab, pod: string, files: Partial<PeerFiles> & { ca: string }, host: string): Promise<Row> {
  const authority = `${host.includes(":") ? `[${host}]` : host}:7002`;
  const settings = { scenario: "single", host, port: 15008, bytes: 200_000, authority, ...files };
  const client = await startPeer(lab, pod, "client", settings);
  const end = await eventOf(client, "done", "error");
  client.child.kill("SIGKILL");
  return end;
}

test(
  "[IDN-4] [IDN-7] [SEC-2] [SEC-10] HBONE with a peer that is not ours, both ways: identities, refusals by reason, L4 policy, records, explain",
  labOptions,
  async (t) => {
    await withLab(manifests, {}, async (lab) => {
      const certificates = new PeerCertificates(lab);
      const good = await certificates.make(id("hb", "echo"));
      const [echo, web] = [await lab.pod("hb/echo"), await lab.pod("shop/web")];

      await t.test("a pod of the mesh reaches the peer, from both nodes, IPv4, IPv6 and by service", async () => {
        const server = await startPeer(lab, "hb/echo", "server", { ...anywhere, ...good });
        await eventOf(server, "listening");
        for (const from of ["shop/near", "shop/beside"]) {
          const own = await lab.pod(from);
          for (const host of [...echo.ips, "echo.hb"]) {
            assert.equal(await echoed(lab, from, host, 9000), "same", `${from} -> ${host}`);
            const seen = await eventOf(server, "stream");
            assert.deepEqual(
              [seen.method, seen.path, seen.client],
              ["CONNECT", undefined, `URI:${id("shop", from.slice(5))}`],
            );
            assert.ok(
              echo.ips.some((ip) => seen.authority === (ip.includes(":") ? `[${ip}]:9000` : `${ip}:9000`)),
              String(seen.authority),
            );
            const address = String(seen.address).replace("::ffff:", "");
            assert.ok(
              own.ips.some((ip) => ip === address),
              `the wire keeps the pod's own address, not ${address}`,
            );
          }
          const node = from === "shop/near" ? "node1" : "node2";
          const row = await recordOf(
            lab,
            node,
            `${from} by HBONE`,
            (r) => r["src.workload"] === from && r.lane === "hbone",
          );
          assert.deepEqual(
            [
              row.direction,
              row.reason,
              row["src.identity"],
              row["dst.workload"],
              row["dst.identity"],
              row.sent,
              row.received,
            ],
            ["outbound", "finished", id("shop", from.slice(5)), "hb/echo", id("hb", "echo"), 300_000, 300_000],
          );
          const told = await explainPair(labView(await lab.status()), from, "hb/echo:9000");
          assert.deepEqual([told.verdict, told.lane, told.legs[0]?.lane], ["allow", "hbone", "hbone"]);
          assert.equal(told.legs[0]?.endpoint.identity, id("hb", "echo"));
        }
        server.child.kill("SIGKILL");
      });

      await t.test(
        "a peer that is somebody else, unknown or out of date is refused, and nothing goes to it in plaintext",
        async () => {
          const plain = await lab.start("hb/echo", [
            "python3",
            "-c",
            `import socket,json
l=socket.create_server(("",9000),family=socket.AF_INET6,dualstack_ipv6=True); print("{}",flush=True)
while True:
  c,_=l.accept(); print(json.dumps({"event":"plain"}),flush=True); c.close()`,
          ]);
          await plain.next();
          const wrong: readonly (readonly [string, string, LeafWishes])[] = [
            ["tls_wrong_identity", id("hb", "other"), {}],
            ["tls_unknown_issuer", id("hb", "echo"), { foreign: true }],
            ["tls_expired", id("hb", "echo"), { beginsMs: -7_200_000, endsMs: -3_600_000 }],
            ["tls_not_yet_valid", id("hb", "echo"), { beginsMs: 3_600_000, endsMs: 7_200_000 }],
            ["tls_wrong_trust_domain", "spiffe://elsewhere.local/ns/hb/sa/echo", {}],
          ];
          for (const [reason, identity, wishes] of wrong) {
            const server = await startPeer(lab, "hb/echo", "server", {
              ...anywhere,
              ...(await certificates.make(identity, wishes)),
            });
            await eventOf(server, "listening");
            const before = await refused(lab, "node1", "outbound", reason);
            assert.equal(await echoed(lab, "shop/near", echo.ips[0] ?? "", 9000, 100), "ConnectionResetError", reason);
            await waitFor(
              `${reason} is counted`,
              async () => (await refused(lab, "node1", "outbound", reason)) === before + 1,
            );
            const row = await recordOf(
              lab,
              "node1",
              reason,
              (r) => r["src.workload"] === "shop/near" && r.reason === reason,
            );
            assert.deepEqual([row["dst.workload"], row.sent], ["hb/echo", 0]);
            server.child.kill("SIGKILL");
          }
          await waitFor("the log names both identities", () =>
            readFileSync(lab.node("node1").agentLog, "utf8")
              .split("\n")
              .filter((l) => l.includes("tls_wrong_identity"))
              .some((l) => l.includes(id("hb", "other")) && l.includes(id("hb", "echo"))),
          );
          await assert.rejects(plain.next(500), /said nothing/, "the plain port was never spoken to");
          plain.child.kill("SIGKILL");
        },
      );

      await t.test(
        "the peer reaches a pod of the mesh under STRICT; the app's bytes, the record, explain",
        async () => {
          for (const host of web.ips) {
            const got = await asks(lab, "hb/echo", good, host);
            assert.deepEqual(
              [got.status, got.ended, got.hash],
              [200, true, sha256(pattern(1, 200_000))],
              JSON.stringify(got),
            );
          }
          const row = await recordOf(
            lab,
            "node1",
            "inbound by HBONE",
            (r) => r["src.workload"] === "hb/echo" && r.direction === "inbound",
          );
          assert.deepEqual(
            [row.lane, row.reason, row["src.identity"], row["dst.workload"], row["dst.identity"]],
            ["hbone", "finished", id("hb", "echo"), "shop/web", id("shop", "web")],
          );
          assert.equal(
            await echoed(lab, "hb/echo", web.ips[0] ?? "", 7002, 100),
            "ConnectionResetError",
            "STRICT: not without HBONE",
          );
          const told = await explainPair(labView(await lab.status()), "hb/echo", "shop/web:7002");
          assert.deepEqual(
            [told.verdict, told.lane, told.legs[0]?.inbound?.identity],
            ["allow", "hbone", id("hb", "echo")],
          );
        },
      );

      await t.test(
        "L4 policy holds for the peer's identity: 403, named in the record and by explain; another port of ours is 400",
        async () => {
          const banned = await certificates.make(id("hb", "banned"));
          assert.equal((await asks(lab, "hb/banned", banned, web.ips[0] ?? "")).status, 403);
          const row = await recordOf(
            lab,
            "node1",
            "refused by policy",
            (r) => r["src.identity"] === id("hb", "banned"),
          );
          assert.deepEqual([row.reason, row.policy, row.received], ["policy_denied", "shop/no-banned", 0]);
          const told = await explainPair(labView(await lab.status()), "hb/banned", "shop/web:7002");
          assert.deepEqual([told.verdict, told.policy, told.reason], ["refuse", "shop/no-banned", "policy_denied"]);
          const [near = ""] = (await lab.pod("shop/near")).ips;
          const authority = `${near}:7002`;
          const client = await startPeer(lab, "hb/echo", "client", {
            scenario: "single",
            host: web.ips[0] ?? "",
            port: 15008,
            authority,
            ...good,
          });
          assert.equal((await eventOf(client, "done")).status, 400, "not an address of that pod");
          client.child.kill("SIGKILL");
        },
      );

      await t.test(
        "a client with no, a foreign, an expired or another domain's certificate is refused in the handshake, counted by reason",
        async () => {
          const wrong: readonly (readonly [string, string, LeafWishes | undefined])[] = [
            ["tls_no_certificate", "", undefined],
            ["tls_unknown_issuer", id("hb", "echo"), { foreign: true }],
            ["tls_expired", id("hb", "echo"), { beginsMs: -7_200_000, endsMs: -3_600_000 }],
            ["tls_wrong_trust_domain", "spiffe://elsewhere.local/ns/hb/sa/echo", {}],
          ];
          for (const [reason, identity, wishes] of wrong) {
            const before = await refused(lab, "node1", "inbound", reason);
            const made = wishes === undefined ? { ca: good.ca } : await certificates.make(identity, wishes);
            const end = await asks(lab, "hb/echo", made, web.ips[0] ?? "");
            assert.equal(end.status, undefined, `${reason}: ${JSON.stringify(end)}`);
            await waitFor(
              `${reason} is counted`,
              async () => (await refused(lab, "node1", "inbound", reason)) === before + 1,
            );
          }
        },
      );
    });
  },
);
