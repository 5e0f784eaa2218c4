// A service in the lab that speaks HTTP/1.1, HTTP/2 and gRPC, one port each, and mixed load on it from a pod.
import { join } from "node:path";
import { PROJECT_DIR } from "../lab/paths.ts";
import type { TestLab } from "./lab.ts";
import { pod, service } from "./manifests.ts";
import type { MixedReport } from "./mixed-load.ts";

const quiet = "--disable-warning=ExperimentalWarning";

/** Ports 80 (http), 81 (h2c) and 82 (grpc), declared as what they are. */
export const mixedService = (path: string): unknown =>
  service(
    path,
    "mixed",
    {},
    {
      ports: [
        { name: "http", port: 80, targetPort: 8080, appProtocol: "http" },
        { name: "h2", port: 81, targetPort: 8081, appProtocol: "kubernetes.io/h2c" },
        { name: "grpc", port: 82, targetPort: 8082, appProtocol: "grpc" },
      ],
    },
  );

/** The pods mixed-`generation`-`from` to before `to`, by turns on the nodes. No preStop. */
export function mixedPods(namespace: string, generation: number, from: number, to: number, nodes = 2): unknown[] {
  return Array.from({ length: to - from }, (_, i) => {
    const name = `mixed-${generation}-${from + i}`;
    return pod(`${namespace}/${name}`, [process.execPath, quiet, join(PROJECT_DIR, "test/kit/mixed-server.ts"), name], {
      node: `node${1 + ((from + i) % nodes)}`,
      labels: { app: "mixed" },
      serviceAccount: "mixed",
      spec: { terminationGracePeriodSeconds: 10 },
      // The last port that the program opens.
      container: { readinessProbe: { tcpSocket: { port: 8082 }, periodSeconds: 1 } },
    });
  });
}

export interface MixedLoad {
  /** Requests a second, whether earlier ones have been answered or not. */
  rate(perSecond: number): Promise<void>;
  /** So many at once, each followed by the next. */
  max(atOnce: number): Promise<void>;
  /** Since the last. */
  report(): Promise<MixedReport>;
  /** Ends it. */
  stop(): Promise<MixedReport>;
}

/** Starts with nothing to do. `kinds`: of http1, http2, grpc. */
export async function startMixed(
  lab: TestLab,
  from: string,
  options: { readonly host: string; readonly kinds?: string; readonly churns?: boolean },
): Promise<MixedLoad> {
  const { host, kinds = "http1,http2,grpc", churns = false } = options;
  const script = join(PROJECT_DIR, "test/kit/mixed-load.ts");
  const program = await lab.start(from, [process.execPath, quiet, script, host, kinds, churns ? "churn" : "steady"]);
  await program.next();
  const ask = async (line: string): Promise<MixedReport> =>
    (await program.ask(line, 120_000)) as unknown as MixedReport;
  return {
    rate: async (perSecond) => void (await ask(`rate ${perSecond}`)),
    max: async (atOnce) => void (await ask(`max ${atOnce}`)),
    report: () => ask("report"),
    stop: () => ask("stop"),
  };
}
