// Demo steps with ordinary programs: everyday traffic, who talked to whom, and what is refused.
import { setTimeout as sleep } from "node:timers/promises";
import type { Fields } from "../objects.ts";
import { type DemoContext, fromAgents, inPod, median, numberOf, type Proof, type Talk, textOf } from "./context.ts";

/** Every pair once by name: nginx over HTTP, Redis, PostgreSQL; same node and across nodes, IPv4 and IPv6. */
const conversations: readonly {
  readonly pod: string;
  readonly to: string;
  readonly command: string;
  readonly expect: RegExp;
}[] = [
  {
    pod: "shop/client",
    to: "shop/web",
    command: "for i in 1 2 3; do curl -sS -m 5 http://web/; done; curl -sS -6 -m 5 http://web/",
    expect: /(hello .*\n){4}/,
  },
  {
    pod: "shop/frontend",
    to: "shop/web",
    command: "for i in 1 2 3; do curl -sS -4 -m 5 http://web/; done; curl -sS -6 -m 5 http://web/",
    expect: /(hello .*\n){4}/,
  },
  {
    pod: "shop/frontend",
    to: "shop/cache",
    command: "redis-cli -h cache set visits 41; redis-cli -h cache incr visits",
    expect: /^OK\n42\n$/,
  },
  { pod: "shop/client", to: "shop/cache", command: "redis-cli -h cache incr visits", expect: /^43\n$/ },
  {
    pod: "shop/client",
    to: "shop/db",
    command:
      "psql -h db -U postgres -Atc 'create table if not exists t (n int)' -c 'insert into t select generate_series(1, 1000)' -c 'select sum(n) from t'",
    expect: /500500/,
  },
  {
    pod: "shop/frontend",
    to: "shop/db",
    command: "psql -h db -U postgres -Atc 'select count(*) from t'",
    expect: /^\d+\n$/,
  },
];

export async function everydayTraffic(at: DemoContext): Promise<Proof> {
  const failed: string[] = [];
  for (const { pod, to, command, expect } of conversations) {
    const done = await inPod(at, pod, command);
    if (!expect.test(done.stdout))
      failed.push(`${pod} -> ${to}: exit code ${done.code} ${(done.stderr || done.stdout).trim().slice(0, 200)}`);
  }
  const good = conversations.length - failed.length;
  const ok = failed.length === 0;
  return {
    name: "real programs",
    ok,
    text: ok
      ? `curl, redis-cli and psql reached nginx, Redis and PostgreSQL on both nodes, over IPv4 and IPv6 (${good} of ${conversations.length})`
      : failed.join("; "),
    facts: { conversations: conversations.length, failed },
  };
}

/** Ended connections by pair and lane, as the nodes' records tell. A tunnelled one is told by both ends and counted at its source. */
export async function whoTalksToWhom(at: DemoContext): Promise<Talk[]> {
  await sleep(300); // records are written when a connection has ended, in batches
  const records = (await fromAgents(at, "/v1/records?limit=1024", "records")).filter((r) => textOf(r.lane) !== "none");
  const asked = (await fromAgents(at, "/v1/requests", "requests")).filter((pair) => pair.reporter === "source");
  const groups = new Map<string, Fields[]>();
  for (const r of records) {
    const isSource = r.direction === "outbound";
    if (!isSource && textOf(r["src.workload"]) !== "" && textOf(r.lane) !== "direct") continue;
    const key = [r["src.workload"], r["dst.workload"], r.lane].map(textOf).join("|");
    groups.set(key, [...(groups.get(key) ?? []), r]);
  }
  return [...groups.values()]
    .map((list): Talk => {
      const first = list[0] ?? {};
      const known = (field: string): string => textOf(list.find((r) => textOf(r[field]) !== "")?.[field]);
      const pairs = asked.filter((p) => p.source === known("src.workload") && p.service === known("dst.service"));
      const requests = textOf(first.lane) === "http" ? pairs : [];
      const total = (field: string): number => requests.reduce((sum, pair) => sum + numberOf(pair[field]), 0);
      return {
        source: known("src.workload") || textOf(first["src.addr"]).replace(/:\d+$/, ""),
        destination: known("dst.workload") || textOf(first["dst.upstream"]),
        service: known("dst.service"),
        lane: textOf(first.lane),
        sourceIdentity: known("src.identity"),
        destinationIdentity: known("dst.identity"),
        connections: list.length,
        requests: total("count"),
        sent: list.reduce((sum, r) => sum + numberOf(r.sent), total("requestBytes")),
        received: list.reduce((sum, r) => sum + numberOf(r.received), total("responseBytes")),
        medianMs: median(list.map((r) => numberOf(r.ready_us) / 1000)),
      };
    })
    .sort((a, b) => `${a.source}${a.destination}`.localeCompare(`${b.source}${b.destination}`));
}

export interface Denied {
  readonly source: string;
  readonly destination: string;
  readonly policy: string;
  readonly reason: string;
  readonly said: string;
}

const refusals: readonly {
  readonly pod: string;
  readonly destination: string;
  readonly command: string;
}[] = [
  {
    pod: "shop/intruder",
    destination: "shop/web:80",
    command: "curl -sS -f -m 5 -D - -H 'x-fairlead-explain: 1' http://web/",
  },
  { pod: "shop/intruder", destination: "shop/db:5432", command: "psql -h db -U postgres -Atc 'select 1'" },
  { pod: "outside/stranger", destination: "shop/web:80", command: "curl -sS -m 5 http://web.shop/" },
];

/** What policy refuses: the program's own error beside the policy that the answer or the node's record names. Each has an allowed twin in `conversations`. */
export async function refused(at: DemoContext): Promise<{ readonly proof: Proof; readonly denied: readonly Denied[] }> {
  const denied: Denied[] = [];
  const through: string[] = [];
  for (const { pod, destination, command } of refusals) {
    const started = Date.now();
    const done = await inPod(at, pod, command);
    if (done.code === 0) through.push(`${pod} -> ${destination}`);
    await sleep(300);
    const service = destination.replace(/:\d+$/, "");
    const records = (await fromAgents(at, "/v1/records?limit=200", "records")).filter(
      (r) => Date.parse(textOf(r.time)) >= started - 1000,
    );
    const mine = records.filter(
      (r) =>
        textOf(r.reason) !== "finished" &&
        (textOf(r["dst.service"]) === service || textOf(r["dst.workload"]) === service),
    );
    const why =
      mine.find((r) => textOf(r.policy) !== "") ?? mine.find((r) => textOf(r.lane) === "none") ?? mine[0] ?? {};
    const answered = /^x-fairlead-denied: .*policy="([^"]*)"/m.exec(done.stdout)?.[1];
    denied.push({
      source: pod,
      destination,
      policy: answered ?? textOf(why.policy),
      reason: answered === undefined ? textOf(why.reason) : "policy_denied",
      said: done.stderr.trim().split("\n")[0] ?? "",
    });
  }
  const ok = through.length === 0;
  const named = denied.filter((d) => d.policy !== "" || d.reason !== "").length;
  return {
    denied,
    proof: {
      name: "refused by policy",
      ok: ok && named === denied.length,
      text: ok
        ? `${denied.length} connections refused, ${named} with policy or reason named`
        : `not refused: ${through.join(", ")}`,
      facts: { denied, through },
    },
  };
}
