// ResiliencePolicies of a cluster, on the replica that writes: after each translation those are looked at of which something changed.
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { ResilienceOperator } from "../operator/resilience-operator.ts";
import type { Writers } from "../write/writers.ts";
import type { Mesh } from "./mesh.ts";

/** `spacingMs`: between two looks at one policy. */
export function operate(spacingMs: number, api: ApiClient, mesh: Mesh, writers: Writers): void {
  const operator = new ResilienceOperator(spacingMs, api, mesh);
  const add = writers.register(operator);
  mesh.onSettled(() => operator.changed(add));
}
