// Where copies of a request go: as a request of their own would, to one endpoint each, and only if its policies let them.
import type { Mirror } from "../api/http-filters.ts";
import type { PoolLink } from "../forward/http1/links.ts";
import type { RequestHead } from "../http.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { RequestWays } from "./request-ways.ts";

export function mirrorPools(
  state: MeshState,
  book: RequestWays,
  mirrors: readonly Mirror[],
  head: RequestHead,
): readonly PoolLink[] {
  return mirrors.flatMap(({ backend }) => {
    const ways = book.backend(backend);
    const { cluster, refused } = ways;
    if (cluster === undefined || refused !== undefined) return [];
    const index = cluster.pick(cluster.keyOf(head, book.handed.source.ip), -1);
    if (index < 0) return [];
    const way = ways.way(index);
    return way.judge(state)?.judge(head).allow === false ? [] : [way.pool()];
  });
}
