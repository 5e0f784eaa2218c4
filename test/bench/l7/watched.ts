// Agents that write an access log and send spans, each of 1 % of the requests, beside those that do neither; what it costs is their ratio.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { call } from "../../lab/unix-http.ts";
import { startIn } from "../place.ts";
import { untilListening } from "../server.ts";
import { type Built, startMesh, type Watched } from "./variants.ts";

const collectorPort = 4318;

/** A lab of its own, with the collector on the node where requests are measured. Headers of traces and ids are made as they are by default. */
export async function startWatched(say: (line: string) => void): Promise<Built & { readonly watched: Watched }> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-bench-watched-"));
  const logFile = join(dir, "access.log");
  const tidy = (): void => rmSync(dir, { recursive: true, force: true });
  try {
    const built = await startMesh(
      say,
      {
        FAIRLEAD_ACCESS_LOG: `file:${logFile}`,
        FAIRLEAD_ACCESS_LOG_SAMPLE: "0.01",
        FAIRLEAD_TRACE_ENDPOINT: `http://127.0.0.1:${collectorPort}/v1/traces`,
        FAIRLEAD_TRACE_SAMPLE: "0.01",
        FAIRLEAD_TRACE_HEADERS: "w3c,request-id,correlation-id",
      },
      "watched",
    );
    try {
      const script = join(dirname(fileURLToPath(import.meta.url)), "collector.ts");
      const place = built.topology.onNode(2, "collector");
      const command = [process.execPath, "--disable-warning=ExperimentalWarning", script, String(collectorPort)];
      const collector = startIn(place, command, join(dir, "collector.log"));
      await untilListening(collector.pid, collectorPort, "the collector");
      const [variant] = built.variants;
      if (variant === undefined) throw new Error("no variant of the mesh");
      const { near, hop, counted } = variant;
      const watched: Watched = {
        near,
        hop,
        counted,
        logged: () => readFileSync(logFile, "latin1").split("\n").length - 1,
        sent: () => spansSent(built.topology.status.nodes.map((n) => n.adminSocket)),
      };
      const down = (): Promise<void> => built.down().finally(tidy);
      return { variants: [], versions: {}, logs: built.logs, down, watched };
    } catch (error) {
      say(built.logs());
      await built.down();
      throw error;
    }
  } catch (error) {
    tidy();
    throw error;
  }
}

/** Spans that the collector has taken. */
async function spansSent(adminSockets: readonly string[]): Promise<number> {
  let sum = 0;
  for (const socket of adminSockets) {
    const reply = await call(socket, "/metrics");
    if (!reply.ok) throw new Error(reply.error);
    sum += Number(/^fairlead_spans_sent_total (\d+)/m.exec(reply.value.text)?.[1] ?? 0);
  }
  return sum;
}
