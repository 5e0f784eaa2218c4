// Which protocol a service's port speaks, as its manifest declares it: annotation, appProtocol, or the port's name. Pure.
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { ServiceObject, ServicePortSpec } from "../sources/types.ts";

/** "3306=mysql,web=http": port numbers or names of the service. Stands above what the ports themselves declare. */
export const protocolsAnnotation = "fairlead.dev/protocols";

/** Protocols whose server sends the first bytes. */
const serverFirstProtocols = new Set(["mysql", "smtp", "ftp", "pop3", "imap", "ssh"]);
const knownProtocols = new Set(
  "tcp http http2 h2c grpc grpc-web https tls mysql mongo redis postgresql postgres kafka smtp ftp pop3 imap ssh ws wss udp".split(
    " ",
  ),
);

export interface AnnotatedProtocols {
  /** Port number or name -> protocol. */
  readonly byPort: ReadonlyMap<string, string>;
  /** Entries that say nothing: not of the form, a port that the service lacks, a protocol that nobody knows. */
  readonly wrong: readonly string[];
}

/** What the annotation of a service says; entries that are wrong are left out and told. */
export function annotatedProtocols(service: ServiceObject): AnnotatedProtocols {
  const byPort = new Map<string, string>();
  const wrong: string[] = [];
  const ports = new Set(service.spec.ports.flatMap((p) => (p.name === "" ? [`${p.port}`] : [`${p.port}`, p.name])));
  const entries = (service.metadata.annotations[protocolsAnnotation] ?? "").split(",").map((entry) => entry.trim());
  for (const entry of entries.filter((text) => text !== "")) {
    const [port = "", protocol = "", ...rest] = entry.split("=").map((part) => part.trim());
    if (rest.length === 0 && ports.has(port) && knownProtocols.has(protocol.toLowerCase()))
      byPort.set(port, protocol.toLowerCase());
    else wrong.push(entry);
  }
  return { byPort, wrong };
}

/** The annotation's word, else appProtocol, else the port name's first part when it is a protocol, else "" (INT-8). */
export function declaredProtocol(
  spec: Pick<ServicePortSpec, "appProtocol" | "name" | "port">,
  annotated: AnnotatedProtocols["byPort"],
): string {
  const appProtocol = spec.appProtocol.toLowerCase().replace(/^kubernetes[.]io\//, "");
  const fromName = spec.name.split("-")[0] ?? "";
  const named = knownProtocols.has(fromName) ? fromName : "";
  const protocol =
    annotated.get(`${spec.port}`) ?? annotated.get(spec.name) ?? (appProtocol !== "" ? appProtocol : named);
  switch (protocol) {
    case "h2c":
      return "http2";
    case "ws":
    case "grpc-web":
      return "http";
    case "https":
    case "wss":
      return "tls";
    default:
      return protocol;
  }
}

/** Whether the server of a port speaks first: by its protocol, or without one by its number. */
export const isServerFirst = (protocol: string, port: number, settings: MeshSettings): boolean =>
  serverFirstProtocols.has(protocol) || (protocol === "" && settings.serverFirstPorts.includes(port));
