// The four routes that every part answers: /health (details), /healthz (alive), /readyz (ready), /metrics.
import { json, type Route } from "./admin-server.ts";
import type { Metrics } from "./metrics.ts";

export interface Health {
  /** undefined when ready, else what is missing. */
  notReady(): string | undefined;
  /** State of each part, shown under /health. */
  details(): Readonly<Record<string, unknown>>;
}

export function healthRoutes(health: Health, metrics: Metrics): readonly Route[] {
  return [
    { method: "GET", path: "/healthz", handle: () => ({ status: 200, body: "ok\n" }) },
    {
      method: "GET",
      path: "/readyz",
      handle() {
        const missing = health.notReady();
        return missing === undefined ? { status: 200, body: "ok\n" } : { status: 503, body: `${missing}\n` };
      },
    },
    {
      method: "GET",
      path: "/health",
      handle() {
        const missing = health.notReady();
        const state = { ready: missing === undefined, ...(missing === undefined ? {} : { reason: missing }) };
        return json({ ...state, ...health.details() }, missing === undefined ? 200 : 503);
      },
    },
    {
      method: "GET",
      path: "/metrics",
      handle: async () => ({ status: 200, body: await metrics.text(), contentType: metrics.contentType }),
    },
  ];
}
