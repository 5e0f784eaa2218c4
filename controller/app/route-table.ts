// Routes of services as agents are given them, for people who ask.
import type { HttpRouting } from "../../agent/api/http-routing.ts";

/** By namespace and name of the service; `service`: only this one, "shop/web". */
export const routeTable = (all: readonly HttpRouting[], service: string | undefined): readonly HttpRouting[] =>
  all
    .filter((routing) => service === undefined || service === keyOf(routing))
    .sort((a, b) => keyOf(a).localeCompare(keyOf(b)));

const keyOf = (routing: HttpRouting): string => `${routing.namespace}/${routing.name}`;
