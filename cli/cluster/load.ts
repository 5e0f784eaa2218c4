// Loads what talks to clusters when a command needs it: it takes most of a second, which the others should not cost.
import type { Cluster } from "./connect.ts";
import type { ClusterPlace } from "./options.ts";

/** Runs `body` with a connection to the cluster. @throws Failure when none is named */
export async function withCluster<T>(place: ClusterPlace, body: (cluster: Cluster) => Promise<T>): Promise<T> {
  const { Cluster } = await import("./connect.ts");
  const cluster = new Cluster(place);
  try {
    return await body(cluster);
  } finally {
    cluster.close();
  }
}
