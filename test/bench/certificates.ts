// What a certificate costs the controller: requests of agents over gRPC to a real controller, its own CPU time by the kernel's account, so that
// other load on the machine does not count. Beside it what the signatures alone cost on this machine at this time: a request's key read, its
// signature checked, one made. `--count N` certificates a round, `--rounds N`, `--json FILE`. Goal: 1,000 a second on one core.
import { createPublicKey, generateKeyPairSync, sign, verify } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { credentials } from "@grpc/grpc-js";
import { CertificateServiceClient, type IssueResponse } from "../../agent/api/mesh.gen.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode, makeCsr, named } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";

/** Ticks of the kernel's clock a second (proc_pid_stat(5)): 100 on every Linux that we run on. */
const ticks = 100;
const requestsAtATime = 32;
const accounts = 50;

/** User and system time of all threads of a process, seconds. */
function cpuSeconds(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticks;
}
const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

const { values: given } = parseArgs({
  options: {
    count: { type: "string", default: "4000" },
    rounds: { type: "string", default: "5" },
    json: { type: "string" },
  },
});
const count = Number(given.count);
const objects = Array.from({ length: accounts }, (_, i) =>
  pod("shop", `p${i}`, `10.244.1.${i + 1}`, { account: `a${i}` }),
);
await using controller = await startController({ "a.yaml": [namespace("shop"), ...objects].join("\n---\n") });
const node = await joinedNode(controller, "n1");
const tls = credentials.createSsl(
  Buffer.from(node.rootsPem),
  Buffer.from(node.credential.keyPem),
  Buffer.from(node.credential.chainPem),
);
const client = new CertificateServiceClient(`127.0.0.1:${controller.ports.grpc}`, tls, named);
const asked = await Promise.all(
  Array.from({ length: accounts }, async (_, i) => {
    const identity = `spiffe://cluster.local/ns/shop/sa/a${i}`;
    return { identity, csrPem: (await makeCsr(identity)).csrPem };
  }),
);
const pid = controller.process.pid ?? 0;

interface Round {
  readonly perSecond: number;
  readonly wallPerSecond: number;
  readonly signaturesPerSecond: number;
}

const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
const spki = pair.publicKey.export({ type: "spki", format: "der" });
const body = Buffer.alloc(400, 1);
const proof = sign("sha256", body, pair.privateKey);
/** What a CPU second of this process is worth in signatures. */
function signaturesPerSecond(): number {
  const times = 1000;
  const before = process.cpuUsage();
  for (let i = 0; i < times; i++) {
    verify("sha256", body, createPublicKey({ key: spki, type: "spki", format: "der" }), proof);
    sign("sha256", body, pair.privateKey);
  }
  const { user, system } = process.cpuUsage(before);
  return (times * 1_000_000) / (user + system);
}

async function round(): Promise<Round> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const request = asked[next++ % accounts] ?? { identity: "", csrPem: "" };
      await new Promise<IssueResponse>((resolve, reject) =>
        client.issue(request, (error, response) => (error === null ? resolve(response) : reject(error))),
      );
    }
  };
  const [cpu, wall] = [cpuSeconds(pid), performance.now()];
  await Promise.all(Array.from({ length: requestsAtATime }, worker));
  return {
    perSecond: count / (cpuSeconds(pid) - cpu),
    wallPerSecond: (count * 1000) / (performance.now() - wall),
    signaturesPerSecond: signaturesPerSecond(),
  };
}

await round(); // warm
const rounds: Round[] = [];
for (let i = 0; i < Number(given.rounds); i++) {
  const one = await round();
  rounds.push(one);
  console.error(
    `round ${i + 1}: ${Math.round(one.perSecond)} a second of one core, ${Math.round(one.wallPerSecond)} a second by the clock; ${Math.round(one.signaturesPerSecond)} a second if signatures were all`,
  );
}
client.close();
const all = rounds.map((r) => Math.round(r.perSecond));
const result = {
  measure: "certificates issued over gRPC, a CPU second of the controller",
  median: median(all),
  rounds: all,
  ofWhichSignatures: `${Math.round(100 * median(rounds.map((r) => r.perSecond / r.signaturesPerSecond)))} %`,
  byTheClock: rounds.map((r) => Math.round(r.wallPerSecond)),
  goal: 1000,
};
console.log(JSON.stringify(result));
if (given.json !== undefined) writeFileSync(given.json, `${JSON.stringify(result, null, 2)}\n`);
