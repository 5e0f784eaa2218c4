// The demo: brings its lab up, goes through the proofs one by one, and takes the lab down. Reports progress; what was seen is its result.
import { join } from "node:path";
import { err, ok, type Result } from "../../../agent/base/result.ts";
import { labDown, labUp, pathsOf } from "../client.ts";
import { defaultOptions } from "../lab-options.ts";
import { fieldsAt, listAt } from "../objects.ts";
import { PROJECT_DIR } from "../paths.ts";
import { callJson } from "../unix-http.ts";
import type { DemoContext, Proof, Talk } from "./context.ts";
import { underLoad } from "./load.ts";
import { onRequests } from "./requests.ts";
import { type Denied, everydayTraffic, refused, whoTalksToWhom } from "./traffic.ts";
import { onTheWire } from "./wire.ts";

/** Certificates live this long in the demo, so that all are renewed while one watches. */
const SVID_TTL_MS = 16_000;

export interface DemoReport {
  readonly ok: boolean;
  readonly lab: string;
  readonly seconds: number;
  readonly interception: string;
  readonly talks: readonly Talk[];
  readonly denied: readonly Denied[];
  readonly proofs: readonly Proof[];
  readonly kept: boolean;
}

export interface DemoOptions {
  readonly name: string;
  readonly keep: boolean;
  readonly agentEnv: Readonly<Record<string, string>>;
  /** Called once the lab is this demo's own. */
  readonly own?: () => void;
}

/** @returns an error only if the lab does not come up; a proof that fails is in the report. */
export async function runDemo(options: DemoOptions, say: (line: string) => void): Promise<Result<DemoReport, string>> {
  const started = performance.now();
  const paths = pathsOf(options.name);
  if (!paths.ok) return paths;
  say("bringing up two nodes with a controller, agents and pods");
  const up = await labUp(
    {
      ...defaultOptions,
      name: options.name,
      manifests: join(PROJECT_DIR, "examples/demo"),
      agentEnv: options.agentEnv,
      agentPrefix: [],
      controllerEnv: { FAIRLEAD_SVID_TTL_MS: String(SVID_TTL_MS) },
    },
    (line) => say(`  ${line}`),
    options.own,
  );
  if (!up.ok) return up;
  let isDown = false;
  try {
    const at: DemoContext = { lab: options.name, paths: paths.value, nodes: up.value.nodes.map((n) => n.name), say };
    const proofs: Proof[] = [];
    const step = async (what: string, act: () => Promise<readonly Proof[]>): Promise<void> => {
      say(what);
      try {
        proofs.push(...(await act()));
      } catch (error) {
        proofs.push({ name: what, ok: false, text: (error as Error).message, facts: {} });
      }
    };
    let denied: readonly Denied[] = [];
    let talks: readonly Talk[] = [];
    await step("curl, redis-cli and psql talk to nginx, Redis and PostgreSQL", async () => [await everydayTraffic(at)]);
    await step("capturing between the nodes while a marker is sent", async () => [await onTheWire(at)]);
    await step("trying what policy forbids", async () => {
      const result = await refused(at);
      denied = result.denied;
      return [result.proof];
    });
    talks = await whoTalksToWhom(at);
    await step("writing a route, a policy and retries, and asking", async () => [await onRequests(at)]);
    await step(`holding idle connections and starting load`, () => underLoad(at));
    const interception = await interceptionOf(at);
    if (!options.keep) {
      say("taking everything down");
      const down = await labDown(options.name);
      isDown = true;
      proofs.push({
        name: "nothing left behind",
        ok: down.ok,
        text: down.ok ? "namespaces, links, cgroups, pins, files and processes are gone" : down.error,
        facts: {},
      });
    }
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    return ok({
      ok: proofs.every((p) => p.ok),
      lab: options.name,
      seconds,
      interception,
      talks,
      denied,
      proofs,
      kept: options.keep,
    });
  } catch (error) {
    return err((error as Error).message);
  } finally {
    if (!options.keep && !isDown) await labDown(options.name);
  }
}

async function interceptionOf(at: DemoContext): Promise<string> {
  const answer = await callJson(at.paths.controllerSocket, "/v1/agents");
  const agents = answer.ok ? listAt(fieldsAt(answer.value).agents).map(fieldsAt) : [];
  return [...new Set(agents.map((a) => String(a.interception ?? "")))].filter(Boolean).join(", ");
}
