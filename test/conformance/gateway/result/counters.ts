// Requests and connections that the agents counted for clients in some namespaces, out of their metrics pages. Pure.

export interface Counts {
  /** At the client's agent. */
  readonly source: number;
  /** At the server's: fewer, since what is answered on the way (a redirect) reaches no server. */
  readonly destination: number;
  /** Connections at the client's agent, whatever was on them. */
  readonly connections: number;
}

/** Sums over all pages of what was counted for clients in one of the namespaces. */
export function readCounts(pages: readonly string[], namespaces: readonly string[]): Counts {
  const lines = pages
    .flatMap((page) => page.split("\n"))
    .filter((line) => namespaces.some((name) => line.includes(`source_workload_namespace="${name}"`)));
  const sum = (metric: string, reporter: string): number =>
    lines
      .filter((line) => line.startsWith(`${metric}{`) && line.includes(`reporter="${reporter}"`))
      .reduce((total, line) => total + Number(/\} (\S+)(?: \d+)?$/.exec(line)?.[1] ?? 0), 0);
  return {
    source: sum("istio_requests_total", "source"),
    destination: sum("istio_requests_total", "destination"),
    connections: sum("istio_tcp_connections_opened_total", "source"),
  };
}

/** What was counted between two readings. */
export const difference = (now: Counts, before: Counts): Counts => ({
  source: now.source - before.source,
  destination: now.destination - before.destination,
  connections: now.connections - before.connections,
});
