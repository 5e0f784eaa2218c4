// Options that name a cluster, the same for all commands that can ask one.
import { homedir } from "node:os";
import { join } from "node:path";
import type { Call } from "../command.ts";

/** Which of our programs a pod, DaemonSet or Deployment is: agent, controller. */
export const componentLabel = "app.kubernetes.io/component";

export const clusterOptions = {
  kubeconfig: {
    type: "string",
    value: "FILE",
    help: "the cluster's kubeconfig (default: $KUBECONFIG, ~/.kube/config)",
  },
  context: { type: "string", value: "NAME", help: "its context (default: the current one)" },
  "mesh-namespace": {
    type: "string",
    value: "NAME",
    help: "where Fairlead runs in the cluster (default: $FAIRLEAD_NAMESPACE, fairlead-system)",
  },
} as const;

export interface ClusterPlace {
  /** undefined: the default. */
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  readonly namespace: string;
}

/** The first file of $KUBECONFIG, or the usual one. */
export const defaultKubeconfig = (): string =>
  (process.env.KUBECONFIG ?? "").split(":").find((file) => file !== "") ?? join(homedir(), ".kube/config");

export const placeOf = (call: Call): ClusterPlace => ({
  kubeconfig: call.text("kubeconfig"),
  context: call.text("context"),
  namespace: call.text("mesh-namespace") ?? (process.env.FAIRLEAD_NAMESPACE || "fairlead-system"),
});
