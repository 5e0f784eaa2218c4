// The interop cases of gRPC: the client and the server of grpc-go, each also against grpc-js. Cases that need credentials of a cloud are not among them.
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { goProgram, goVersion } from "../foreign.ts";
import { type Case, counted, judged, type Place, places, type Suite, skipped, withHttpLab } from "../suite.ts";

/** All that the programs know and that needs no credentials; the requests that each makes at least. */
const goCases: Readonly<Record<string, number>> = {
  empty_unary: 1,
  large_unary: 1,
  client_streaming: 1,
  server_streaming: 1,
  ping_pong: 1,
  empty_stream: 1,
  timeout_on_sleeping_server: 1,
  cancel_after_begin: 0,
  cancel_after_first_response: 1,
  status_code_and_message: 2,
  special_status_message: 1,
  custom_metadata: 2,
  unimplemented_method: 1,
  unimplemented_service: 1,
  orca_per_rpc: 1,
  orca_oob: 1,
  rpc_soak: 10,
  channel_soak: 10,
};

const grpcPort = { ports: [{ name: "grpc", port: 80, targetPort: 8080, appProtocol: "grpc" }] };
const manifests = (goServer: string): Readonly<Record<string, string>> => ({
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    ...places.flatMap(({ node, suffix }) => [
      pod(`shop/go-${suffix}`, [goServer, "-port", "8080"], {
        node,
        container: { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } },
      }),
      service(`shop/go-${suffix}`, `go-${suffix}`, {}, grpcPort),
    ]),
  ),
});

async function goCase(lab: TestLab, client: string, to: string, group: string, name: string): Promise<Case> {
  const args = ["-server_host", to, "-server_port", "80", "-test_case", name, "-soak_overall_timeout_seconds", "120"];
  const orca = '{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}';
  if (name.startsWith("orca_")) args.push("-service_config_json", orca);
  const slack = ["-soak_per_iteration_max_acceptable_latency_ms", "10000"];
  const done = await lab.run("shop/client", [client, ...args, ...slack], 150_000);
  return judged(group, name, done.code === 0 ? undefined : `exit code ${done.code}: ${done.stderr}`);
}

export const grpcInterop: Suite = {
  name: "grpc",
  about: "gRPC's interop cases, all that need no credentials of a cloud",
  async run(say) {
    const client = await goProgram("grpc-client");
    const server = await goProgram("grpc-server");
    const cases: Case[] = [];
    await withHttpLab(manifests(server), async (lab) => {
      for (const { suffix } of places) await lab.ready(`shop/go-${suffix}`);
      const goToGo = async (place: Place): Promise<void> => {
        const group = `grpc-go to grpc-go, ${place.name}`;
        say(group);
        const all = async (): Promise<readonly Case[]> => {
          const done: Case[] = [];
          for (const name of Object.keys(goCases))
            done.push(await goCase(lab, client, `go-${place.suffix}`, group, name));
          return [
            ...done,
            skipped(
              group,
              "pick_first_unary",
              "the server of grpc-go tells no server_id, so the case fails without a mesh too",
            ),
          ];
        };
        const least = Object.values(goCases).reduce((sum, n) => sum + n, 0);
        cases.push(...(await counted(lab, group, `go-${place.suffix}`, place, all, () => least)));
      };
      for (const place of places) await goToGo(place);
    });
    return { programs: [`grpc-go ${goVersion("google.golang.org/grpc")}`], cases };
  },
};
