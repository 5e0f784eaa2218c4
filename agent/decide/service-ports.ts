// Which ports of services a workload's own port stands behind. Pure.
import type { Service, ServicePort } from "../api/service.ts";
import { serviceBeforePort, type Workload } from "../api/workload.ts";
import type { MeshState } from "../state/mesh-state.ts";

/** One for each membership that maps to `port`; undefined where the service, or that port of it, is not known. */
export const servicePortsOf = (
  state: MeshState,
  workload: Workload,
  port: number,
): readonly (ServicePort | undefined)[] =>
  workload.services.flatMap(({ service, ports }) =>
    ports
      .filter(({ targetPort }) => targetPort === port)
      .map(({ servicePort }) => state.services.byName(service)?.ports.find((p) => p.port === servicePort)),
  );

/** See serviceBeforePort; undefined also where that service is not known. */
export function serviceBefore(state: MeshState, workload: Workload, port: number): Service | undefined {
  const name = serviceBeforePort(workload, port);
  return name === undefined ? undefined : state.services.byName(name);
}
