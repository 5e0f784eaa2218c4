// Services indexed by name, address, node port and hostname. Endpoints are workloads and live in workloads.ts (DP-30).
import type { ServiceName } from "../api/names.ts";
import { type Service, type ServicePort, serviceNameOf } from "../api/service.ts";

export interface ServiceAt {
  readonly service: Service;
  readonly port: ServicePort;
}

export class ServiceIndex {
  readonly #byName = new Map<ServiceName, Service>();
  readonly #byAddress = new Map<string, ServiceName[]>();
  readonly #byNodePort = new Map<number, ServiceName[]>();
  readonly #byHostname = new Map<string, ServiceName[]>();

  get size(): number {
    return this.#byName.size;
  }

  put(service: Service): void {
    const name = serviceNameOf(service);
    this.delete(name);
    this.#byName.set(name, service);
    for (const address of service.addresses) add(this.#byAddress, address, name);
    for (const port of service.ports) if (port.nodePort !== 0) add(this.#byNodePort, port.nodePort, name);
    add(this.#byHostname, service.hostname, name);
  }

  /** Returns what was there. */
  delete(name: ServiceName): Service | undefined {
    const old = this.#byName.get(name);
    if (old === undefined) return undefined;
    this.#byName.delete(name);
    for (const address of old.addresses) remove(this.#byAddress, address, name);
    for (const port of old.ports) if (port.nodePort !== 0) remove(this.#byNodePort, port.nodePort, name);
    remove(this.#byHostname, old.hostname, name);
    return old;
  }

  byName(name: ServiceName): Service | undefined {
    return this.#byName.get(name);
  }

  byHostname(hostname: string): Service | undefined {
    const name = this.#byHostname.get(hostname)?.[0];
    return name === undefined ? undefined : this.#byName.get(name);
  }

  hasAddress(address: string): boolean {
    return this.#byAddress.has(address);
  }

  /** The service at an address and port of its own. Of two that claim both, the first by name has it (the controller reports the other). */
  byAddress(address: string, port: number): ServiceAt | undefined {
    return this.#first(this.#byAddress.get(address), (p) => p.port === port);
  }

  /** The service behind a port of every node. */
  byNodePort(nodePort: number): ServiceAt | undefined {
    return this.#first(this.#byNodePort.get(nodePort), (p) => p.nodePort === nodePort);
  }

  all(): Iterable<Service> {
    return this.#byName.values();
  }

  #first(names: readonly ServiceName[] | undefined, matches: (port: ServicePort) => boolean): ServiceAt | undefined {
    for (const name of names ?? []) {
      const service = this.#byName.get(name);
      const port = service?.ports.find(matches);
      if (service !== undefined && port !== undefined) return { service, port };
    }
    return undefined;
  }
}

/** Lists are kept sorted, so that every agent resolves a conflict alike. */
function add<K>(map: Map<K, ServiceName[]>, key: K, name: ServiceName): void {
  const names = map.get(key);
  if (names === undefined) map.set(key, [name]);
  else if (!names.includes(name)) names.splice(names.findIndex((n) => n > name) >>> 0, 0, name);
}

function remove<K>(map: Map<K, ServiceName[]>, key: K, name: ServiceName): void {
  const names = map.get(key);
  if (names === undefined) return;
  const at = names.indexOf(name);
  if (at >= 0) names.splice(at, 1);
  if (names.length === 0) map.delete(key);
}
