// `fairlead routes`: what routes the requests to services, in the order in which agents decide.
import { type Fields, fieldsAt, listAt } from "../test/lab/objects.ts";
import { type Call, type Command, UsageError } from "./command.ts";
import { askController, jsonOption, meshOptions, number, text, withMesh } from "./mesh.ts";
import { type Cell, cell, duration, table } from "./table.ts";

export const routes: Command = {
  name: "routes",
  usage: "routes [NAMESPACE[/SERVICE]] [--lab NAME | --context NAME] [--json]",
  summary: "What routes the requests to services: hosts, matches, filters, backends with weights, timeouts, retries.",
  details: "As the controller gives it to agents. fairlead explain --path … says which rule a request meets.",
  options: { ...meshOptions, json: jsonOption },
  run: async (call) => {
    const [wanted = "", ...more] = call.words;
    if (more.length > 0) throw new UsageError("name at most one NAMESPACE or NAMESPACE/SERVICE");
    const query = wanted.includes("/") ? `?${new URLSearchParams({ service: wanted })}` : "";
    return withMesh(call, async (mesh) => {
      const answer = await askController(mesh, `/v1/routes${query}`);
      const services = listAt(answer.services)
        .map(fieldsAt)
        .filter((s) => query !== "" || wanted === "" || s.namespace === wanted);
      if (call.flag("json")) call.output.out(JSON.stringify({ ...mesh.named, services }, null, 2));
      else print(services, query !== "", call);
      return 0;
    });
  },
};

function print(services: readonly Fields[], isOne: boolean, call: Call): void {
  const routed = services.filter((s) => listAt(s.routes).length > 0 || isOne);
  const rows = routed.flatMap(rowsOf);
  if (rows.length > 0)
    call.output.out(
      table(["SERVICE", "PORTS", "FOR", "ROUTE", "HOSTS", "MATCHES", "DOES", "TO"], rows, call.output.colour),
    );
  const others = services.length - routed.length;
  if (others > 0)
    call.output.out(`${rows.length > 0 ? "\n" : ""}${others} services without a route: requests go to their endpoints`);
  if (services.length === 0)
    call.output.out("no routes: requests go to the endpoints of the service that they are addressed to");
}

function rowsOf(service: Fields): readonly (string | Cell)[][] {
  const name = `${text(service.namespace)}/${text(service.name)}`;
  const found = listAt(service.routes).map(fieldsAt);
  if (found.length === 0) return [[name, "all", "all", "-", "all", "all", "", "its endpoints"]];
  return found.flatMap((route) =>
    listAt(route.rules)
      .map(fieldsAt)
      .map((rule): (string | Cell)[] => [
        name,
        listAt(route.ports).map(text).join(",") || "all",
        text(route.consumers) === "" ? "all" : `pods of ${text(route.consumers)}`,
        `${text(route.namespace)}/${text(route.name)}${text(rule.name) === "" ? "" : ` ${text(rule.name)}`}`,
        listAt(route.hostnames).map(text).join(",") || "all",
        listAt(rule.matches).map(fieldsAt).map(matchText).join(" or ") || "all",
        [...listAt(rule.filters).map(fieldsAt).map(filterText), ...limitsText(rule)].join("; "),
        backendsOf(rule),
      ]),
  );
}

/** `POST /cart/* x-user=ada ?debug=1` */
export function matchText(match: Fields): string {
  const path = fieldsAt(match.path);
  const grpc = fieldsAt(match.grpc);
  const field = (one: Fields): string => `${text(one.name)}${one.kind === "regex" ? "~" : "="}${text(one.value)}`;
  const words = [
    text(match.method),
    path.kind === "exact"
      ? text(path.value)
      : path.kind === "prefix"
        ? `${text(path.value).replace(/\/$/, "")}/*`
        : path.kind === "regex"
          ? `~${text(path.value)}`
          : "",
    match.grpc === undefined ? "" : `${text(grpc.service) || "*"}/${text(grpc.method) || "*"}`,
    ...listAt(match.headers).map(fieldsAt).map(field),
    ...listAt(match.query)
      .map(fieldsAt)
      .map((one) => `?${field(one)}`),
  ];
  return words.filter(Boolean).join(" ") || "all";
}

function filterText(filter: Fields): string {
  const value = fieldsAt(filter.value);
  const path = fieldsAt(value.path);
  const to = [text(value.hostname), text(path.value)].filter(Boolean).join("");
  switch (filter.kind) {
    case "redirect":
      return `redirect ${text(value.status)}${to === "" ? "" : ` to ${to}`}`;
    case "rewrite":
      return `rewrite to ${to}`;
    case "mirror":
      return `mirror to ${serviceText(fieldsAt(value.backend))}`;
    case "direct":
      return `answer ${text(value.status)}`;
    case "requestHeaders":
      return "request headers";
    case "responseHeaders":
      return "response headers";
    default:
      return text(filter.kind);
  }
}

function limitsText(rule: Fields): readonly string[] {
  const { requestMs, tryMs } = fieldsAt(rule.timeouts);
  const { attempts } = fieldsAt(rule.retry);
  return [
    number(requestMs) > 0 ? `within ${duration(number(requestMs))}` : "",
    number(tryMs) > 0 ? `each try ${duration(number(tryMs))}` : "",
    number(attempts) > 0 ? `${number(attempts)} retries` : "",
  ].filter(Boolean);
}

const serviceText = (backend: Fields): string => `${text(backend.service)}:${text(backend.port)}`;

function backendsOf(rule: Fields): string | Cell {
  const backends = listAt(rule.backends).map(fieldsAt);
  const total = backends.reduce((sum, b) => sum + number(b.weight), 0);
  if (total === 0) {
    const answers = listAt(rule.filters).some((f) => ["redirect", "direct"].includes(text(fieldsAt(f).kind)));
    return answers ? "-" : cell("nobody: answers 500", "red");
  }
  const broken = backends.some((b) => text(b.invalid) !== "");
  const words = backends.map((b) => {
    const share = backends.length === 1 ? "" : ` ${Math.round((100 * number(b.weight)) / total)} %`;
    return text(b.invalid) === ""
      ? `${serviceText(b)}${share}`
      : `${text(b.service) || "?"} (${text(b.invalid)}: 500)${share}`;
  });
  return cell(words.join(", "), broken ? "red" : undefined);
}
