// A service as agents know it: names, addresses, ports. Its endpoints are the workloads that name it (workload.ts).
import { checkFields, type Decoded } from "./fields.ts";
import type * as wire from "./mesh.gen.ts";
import { type ServiceName, serviceName } from "./names.ts";

export interface ServicePort {
  readonly port: number;
  readonly name: string;
  /** Declared application protocol ("tcp", "http", "http2", "grpc", "tls", "mysql"...); "" means detect. */
  readonly protocol: string;
  /** 0 when the service has no node port. */
  readonly nodePort: number;
  /** The server speaks first (MySQL, SMTP...): nobody waits for the client's first bytes. */
  readonly serverFirst: boolean;
}
export interface Service {
  readonly name: string;
  readonly namespace: string;
  readonly hostname: string;
  /** Cluster, external and load-balancer addresses, canonical. */
  readonly addresses: readonly string[];
  readonly ports: readonly ServicePort[];
  readonly headless: boolean;
  /** Host of an ExternalName service, else "". */
  readonly externalName: string;
  /** "" means the mesh's default. */
  readonly loadBalancing: string;
  /** A client's connections go where its last one within so many seconds went (`sessionAffinity: ClientIP`); 0: wherever. */
  readonly clientAffinityS: number;
  /** Of `addresses`: those that lead to endpoints of the client's own node alone (`internalTrafficPolicy: Local`). */
  readonly nodeLocalAddresses: readonly string[];
  /** Endpoints are used whether they are ready or not (`publishNotReadyAddresses`). */
  readonly publishNotReady: boolean;
}

export const serviceNameOf = (service: Pick<Service, "namespace" | "name">): ServiceName =>
  serviceName(service.namespace, service.name);

export function serviceFromWire(message: wire.Service): Decoded<Service> {
  const fields = checkFields();
  return fields.finish<Service>({
    name: fields.name("name", message.name),
    namespace: fields.name("namespace", message.namespace),
    hostname: fields.name("hostname", message.hostname),
    addresses: message.addresses.map((address, i) => fields.address(`addresses[${i}]`, address)),
    ports: message.ports.map((port, i) => ({
      port: fields.port(`ports[${i}].port`, port.port),
      name: port.name,
      protocol: port.protocol,
      nodePort: fields.optionalPort(`ports[${i}].node_port`, port.nodePort, 0),
      serverFirst: port.serverFirst,
    })),
    headless: message.headless,
    externalName: fields.optionalName("external_name", message.externalName),
    loadBalancing: message.loadBalancing,
    clientAffinityS: message.clientAffinityS,
    nodeLocalAddresses: message.nodeLocalAddresses.map((address, i) =>
      fields.address(`node_local_addresses[${i}]`, address),
    ),
    publishNotReady: message.publishNotReady,
  });
}

export function serviceToWire(service: Service): wire.Service {
  return {
    ...service,
    addresses: [...service.addresses],
    ports: service.ports.map((port) => ({ ...port })),
    nodeLocalAddresses: [...service.nodeLocalAddresses],
  };
}
