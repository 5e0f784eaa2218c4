// Kubernetes probes as data: shared by the lab (which reads them) and the kubelet stand-in (which runs them).
import { type Fields, fieldsAt, listAt } from "./objects.ts";

interface Timing {
  readonly initialDelayMs: number;
  readonly periodMs: number;
  readonly timeoutMs: number;
  readonly successThreshold: number;
  readonly failureThreshold: number;
  readonly port?: number;
}

export type ProbeSpec =
  | (Timing & {
      readonly kind: "http";
      readonly port: number;
      readonly path: string;
      readonly scheme: "HTTP" | "HTTPS";
      readonly headers: readonly (readonly [string, string])[];
      readonly host?: string;
    })
  | (Timing & { readonly kind: "tcp"; readonly port: number; readonly host?: string })
  | (Timing & { readonly kind: "exec"; readonly argv: readonly string[] });

type Report = (field: string, message: string, fix: string) => void;

/** Reads a probe with Kubernetes' defaults (period 10 s, timeout 1 s, success 1, failure 3). */
export function parseProbe(
  fields: Fields,
  at: string,
  ports: ReadonlyMap<unknown, unknown>,
  report: Report,
): ProbeSpec | undefined {
  const seconds = (key: string, fallback: number): number =>
    typeof fields[key] === "number" ? fields[key] * 1000 : fallback;
  const count = (key: string, fallback: number): number => (typeof fields[key] === "number" ? fields[key] : fallback);
  const timing: Timing = {
    initialDelayMs: seconds("initialDelaySeconds", 0),
    periodMs: Math.max(seconds("periodSeconds", 10_000), 50),
    timeoutMs: Math.max(seconds("timeoutSeconds", 1000), 50),
    successThreshold: Math.max(count("successThreshold", 1), 1),
    failureThreshold: Math.max(count("failureThreshold", 3), 1),
  };
  const port = (value: unknown, field: string): number | undefined => {
    const number =
      typeof value === "number"
        ? value
        : typeof value === "string" && ports.has(value)
          ? Number(ports.get(value))
          : Number(value);
    if (Number.isInteger(number) && number >= 1 && number <= 65_535) return number;
    report(
      field,
      `${JSON.stringify(value ?? null)} is no port from 1 to 65535 and no name of a container port`,
      "give the number, or the name of one of spec.containers[].ports",
    );
    return undefined;
  };
  const host = (value: unknown) => (typeof value === "string" ? { host: value } : {});
  if (fields.httpGet !== undefined) {
    const get = fieldsAt(fields.httpGet);
    const number = port(get.port, `${at}.httpGet.port`);
    if (number === undefined) return undefined;
    const headers = listAt(get.httpHeaders).map((h) => [String(fieldsAt(h).name), String(fieldsAt(h).value)] as const);
    const path = typeof get.path === "string" ? get.path : "/";
    return {
      ...timing,
      kind: "http",
      port: number,
      path: path.startsWith("/") ? path : `/${path}`,
      scheme: get.scheme === "HTTPS" ? "HTTPS" : "HTTP",
      headers,
      ...host(get.host),
    };
  }
  if (fields.tcpSocket !== undefined) {
    const tcp = fieldsAt(fields.tcpSocket);
    const number = port(tcp.port, `${at}.tcpSocket.port`);
    return number === undefined ? undefined : { ...timing, kind: "tcp", port: number, ...host(tcp.host) };
  }
  if (fields.exec !== undefined) {
    const argv = listAt(fieldsAt(fields.exec).command).map(String);
    if (argv.length > 0) return { ...timing, kind: "exec", argv };
    report(`${at}.exec.command`, "missing", 'give a command, e.g. command: ["pg_isready"]');
    return undefined;
  }
  report(at, "has none of httpGet, tcpSocket and exec", "use one of these three");
  return undefined;
}
