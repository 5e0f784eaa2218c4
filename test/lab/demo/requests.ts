// Demo step: a route, a policy and retries are written while the lab runs; how soon each acts on requests, and why one was refused.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { labAsk } from "../client.ts";
import { fieldsAt, listAt } from "../objects.ts";
import { PROJECT_DIR } from "../paths.ts";
import { askAgent, type DemoContext, inPod, type Proof, textOf } from "./context.ts";

/** Requests to the service that fails half of them, before and after its policy. */
const ASKED = 20;

/** Writes a manifest of examples/requests, and @returns how long it took until `acts`, ms; undefined: not within 10 s. */
async function appliedUntil(at: DemoContext, file: string, acts: () => Promise<boolean>): Promise<number | undefined> {
  const manifest = readFileSync(join(PROJECT_DIR, "examples/requests", file), "utf8");
  const started = performance.now();
  const answer = await labAsk(at.lab, "/v1/apply", { file, manifest });
  if (!answer.ok) throw new Error(answer.error);
  const problem = listAt(fieldsAt(answer.value).problems)[0];
  if (problem !== undefined) throw new Error(`${file}: ${textOf(fieldsAt(problem).problem)}`);
  while (performance.now() - started < 10_000) {
    if (await acts()) return Math.round(performance.now() - started);
    await sleep(20);
  }
  return undefined;
}

export async function onRequests(at: DemoContext): Promise<Proof> {
  const status = async (args: string): Promise<string> =>
    (await inPod(at, "shop/client", `curl -sS -m 5 -o /dev/null -w '%{http_code}\\n' ${args}`)).stdout.trim();
  const served = async (): Promise<number> => {
    const asked = `for i in $(seq ${ASKED}); do curl -sS -m 5 -o /dev/null -w '%{http_code}\\n' http://preview/flaky; done`;
    return (await inPod(at, "shop/client", asked, 60_000)).stdout.split("\n").filter((code) => code === "200").length;
  };
  const before = [await status("http://web/preview/shirts"), await status("-X DELETE http://web/")];
  const routedMs = await appliedUntil(at, "route.yaml", async () =>
    (await inPod(at, "shop/client", "curl -sS -m 5 http://web/preview/shirts")).stdout.startsWith("preview of /shirts"),
  );
  const refusedMs = await appliedUntil(
    at,
    "authorization.yaml",
    async () => (await status("-X DELETE http://web/")) === "403",
  );
  const without = await served();
  const retriedMs = await appliedUntil(at, "resilience.yaml", async () => (await served()) === ASKED);
  const why = await refusal(at);
  const rest = await status("http://web/");
  const ok =
    before.every((code) => code === "200") &&
    ![routedMs, refusedMs, retriedMs].includes(undefined) &&
    rest === "200" &&
    why.includes("no-delete");
  const facts = { before, routedMs, refusedMs, retriedMs, servedWithoutRetries: without, asked: ASKED, why };
  const text = `an HTTPRoute acted ${routedMs} ms after it was written, an AuthorizationPolicy about methods after ${refusedMs} ms (${why}); with retries ${ASKED} of ${ASKED} requests to a server that fails half of them were served, without ${without}`;
  return { name: "routes and policies on requests", ok, text: ok ? text : JSON.stringify(facts), facts };
}

/** Why the agents say that the request is refused: policy, rule and input. */
async function refusal(at: DemoContext): Promise<string> {
  const query = new URLSearchParams({ source: "shop/client", destination: "shop/web:80", path: "/", method: "DELETE" });
  const outbound = await askAgent(at, "node1", `/v1/explain?${query}`);
  const verdicts = listAt(outbound.endpoints).map((endpoint) => fieldsAt(fieldsAt(endpoint).verdict));
  const said = verdicts.find((verdict) => verdict.allow === false) ?? {};
  return `policy ${textOf(said.policy)}, rule ${String(said.rule)}, ${textOf(said.input)}`;
}
