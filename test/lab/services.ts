// Services as a pod's resolver and a node's kube-proxy see them: names, addresses and ready endpoints. Pure.
import { isIP } from "node:net";
import { type Fields, fieldsAt, type KubeObject, listAt, stringsAt } from "./objects.ts";

export interface EndpointPod {
  readonly namespace: string;
  readonly name: string;
  readonly hostname: string;
  readonly subdomain: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly ips: readonly string[];
  readonly ready: boolean;
  /** Container ports by name. */
  readonly ports: Readonly<Record<string, number>>;
}

export interface ServicePortMap {
  readonly port: number;
  readonly nodePort: number;
  readonly protocol: string;
  /** Address and port of each endpoint. */
  readonly endpoints: readonly { readonly ip: string; readonly port: number }[];
}

export interface ServiceView {
  readonly namespace: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly headless: boolean;
  readonly ports: readonly ServicePortMap[];
  /** Pods behind it that have a name of their own below the service's (headless). */
  readonly named: readonly { readonly hostname: string; readonly ips: readonly string[] }[];
}

const matches = (selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean =>
  Object.keys(selector).length > 0 && Object.entries(selector).every(([k, v]) => labels[k] === v);

function portOf(target: unknown, fallback: number, pod: EndpointPod): number | undefined {
  if (target === undefined) return fallback;
  if (typeof target === "number") return target;
  return pod.ports[String(target)];
}

/** @param addresses cluster IPs that the controller gave to services without one, by "namespace/name" */
export function viewServices(
  objects: readonly KubeObject[],
  pods: readonly EndpointPod[],
  addresses: ReadonlyMap<string, readonly string[]>,
): ServiceView[] {
  const slices = objects.filter((o) => o.kind === "EndpointSlice");
  return objects
    .filter((o) => o.kind === "Service")
    .map((service) => {
      const spec = fieldsAt(service.fields.spec);
      const selector = stringsAt(spec.selector);
      const backing = pods.filter(
        (p) =>
          p.namespace === service.namespace &&
          matches(selector, p.labels) &&
          (p.ready || spec.publishNotReadyAddresses === true),
      );
      const own = slices.filter(
        (s) => s.namespace === service.namespace && s.labels["kubernetes.io/service-name"] === service.name,
      );
      const ports = listAt(spec.ports).map((p) => portMap(fieldsAt(p), backing, own));
      const given = [spec.clusterIP, ...listAt(spec.clusterIPs)].filter(
        (ip): ip is string => typeof ip === "string" && ip !== "",
      );
      const headless = given.includes("None");
      return {
        namespace: service.namespace,
        name: service.name,
        headless,
        addresses: headless
          ? []
          : [...new Set([...given, ...(addresses.get(`${service.namespace}/${service.name}`) ?? [])])],
        ports,
        named: headless
          ? backing.filter((p) => p.subdomain === service.name).map((p) => ({ hostname: p.hostname, ips: p.ips }))
          : [],
      };
    });
}

function portMap(fields: Fields, backing: readonly EndpointPod[], slices: readonly KubeObject[]): ServicePortMap {
  const port = Number(fields.port);
  const fromPods = backing.flatMap((pod) => {
    const target = portOf(fields.targetPort, port, pod);
    return target === undefined ? [] : pod.ips.map((ip) => ({ ip, port: target }));
  });
  const fromSlices = slices.flatMap((slice) => {
    const named = listAt(slice.fields.ports).map(fieldsAt);
    const match =
      named.find((p) => (p.name ?? "") === (fields.name ?? "")) ?? (named.length === 1 ? named[0] : undefined);
    const target = Number(match?.port ?? Number.NaN);
    if (!Number.isInteger(target)) return [];
    return listAt(slice.fields.endpoints)
      .map(fieldsAt)
      .filter((e) => fieldsAt(e.conditions).ready !== false)
      .flatMap((e) => listAt(e.addresses).map((ip) => ({ ip: String(ip), port: target })));
  });
  return {
    port,
    nodePort: Number(fields.nodePort ?? 0) || 0,
    protocol: String(fields.protocol ?? "TCP").toLowerCase(),
    endpoints: [...fromPods, ...fromSlices],
  };
}

/** Lines of /etc/hosts for a pod of `namespace`: `web` (own namespace), `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local`. */
export function hostsLines(services: readonly ServiceView[], namespace: string): string {
  const lines: string[] = [];
  for (const s of services) {
    const full = `${s.name}.${s.namespace}`;
    const names = `${full}.svc.cluster.local ${full}.svc ${full}${s.namespace === namespace ? ` ${s.name}` : ""}`;
    const ips =
      s.headless || s.addresses.length === 0
        ? [...new Set(s.ports.flatMap((p) => p.endpoints.map((e) => e.ip)))]
        : s.addresses;
    for (const ip of ips) lines.push(`${ip} ${names}\n`);
    for (const pod of s.named)
      for (const ip of pod.ips) lines.push(`${ip} ${pod.hostname}.${full}.svc.cluster.local ${pod.hostname}.${full}\n`);
  }
  return lines.join("");
}

const isPort = (n: number): boolean => Number.isInteger(n) && n >= 1 && n <= 65535;

/** nft rules that stand in for kube-proxy on a node: pods outside the mesh reach services by their cluster addresses. */
export function proxyRules(services: readonly ServiceView[]): string {
  const rules = (family: "ip" | "ip6"): string[] => {
    const isFamily = (ip: string): boolean => isIP(ip) === (family === "ip6" ? 6 : 4);
    return services.flatMap((s) =>
      s.ports
        .filter((p) => (p.protocol === "tcp" || p.protocol === "udp") && isPort(p.port))
        .flatMap((p) => {
          const backends = p.endpoints
            .filter((e) => isFamily(e.ip) && isPort(e.port))
            .map((e, i) => `${i} : ${e.ip} . ${e.port}`);
          return s.addresses.filter(isFamily).map((ip) => {
            const match = `${family} daddr ${ip} ${p.protocol} dport ${p.port}`;
            return backends.length === 0
              ? `${match} reject`
              : `${match} dnat to numgen random mod ${backends.length} map { ${backends.join(", ")} }`;
          });
        }),
    );
  };
  return (["ip", "ip6"] as const)
    .map((family) => {
      const all = rules(family);
      const nat = all.filter((r) => !r.endsWith(" reject"));
      const refuse = all.filter((r) => r.endsWith(" reject"));
      const table = `table ${family} fairlead-lab`;
      return [
        table,
        `delete ${table}`,
        `${table} {`,
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat; policy accept;",
        ...nat.map((r) => `    ${r}`),
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        ...refuse.map((r) => `    ${r}`),
        "  }",
        "}",
      ].join("\n");
    })
    .join("\n")
    .concat("\n");
}

/** Cluster addresses for a lab without controller: in order of name, which is as good as any where nothing is remembered. */
export function ownAddresses(objects: readonly KubeObject[]): Map<string, readonly string[]> {
  const bare = objects.filter((o) => o.kind === "Service" && fieldsAt(o.fields.spec).clusterIP === undefined);
  const names = bare.map((o) => `${o.namespace}/${o.name}`).sort();
  return new Map(
    names.map((name, i) => [name, [`10.96.255.${i + 1}`, `fd00:96::ff${(i + 1).toString(16).padStart(2, "0")}`]]),
  );
}

/** Container ports by name, of a pod manifest. */
export function namedPorts(object: KubeObject): Record<string, number> {
  const out: Record<string, number> = {};
  for (const container of listAt(fieldsAt(object.fields.spec).containers)) {
    for (const port of listAt(fieldsAt(container).ports)) {
      const { name, containerPort } = fieldsAt(port) as { readonly name?: unknown; readonly containerPort?: unknown };
      if (typeof name === "string" && typeof containerPort === "number") out[name] = containerPort;
    }
  }
  return out;
}
