// The trusted roots as ConfigMaps, for whoever must know the controller before it has a certificate: agents mount fairlead-ca-root.
import type { Authority } from "../issue/authority.ts";
import { covers, type Desired, type Reconciler } from "../write/desired.ts";
import type { Writers } from "../write/writers.ts";

export interface RootConfigMap {
  readonly namespace: string;
  readonly name: string;
}
export const rootConfigMapName = "fairlead-ca-root";
/** By this name ztunnels mount it. */
const istioName = "istio-ca-root-cert";
/** The key in every one of them, as programs of Istio expect it. */
const dataKey = "root-cert.pem";

/** Ours in our own namespace, and Istio's in those of the ztunnels ("<namespace>/<account>"). */
export function rootConfigMaps(own: string, ztunnels: readonly string[]): readonly RootConfigMap[] {
  const others = new Set(ztunnels.map((account) => account.slice(0, account.indexOf("/"))));
  return [
    { namespace: own, name: rootConfigMapName },
    ...[...others].map((namespace) => ({ namespace, name: istioName })),
  ];
}

/** Keeps these ConfigMaps as the authority's roots are, on the replica that leads. */
export function publishRoots(
  writers: Pick<Writers, "register">,
  authority: Authority,
  targets: readonly RootConfigMap[],
): void {
  const keys = targets.map(({ namespace, name }) => `${namespace}/${name}`);
  const reconciler: Reconciler = {
    kind: "RootConfigMap",
    spacingMs: 1000,
    keys: () => keys,
    desired: (key) => [rootConfigMap(key, authority.rootsPem.join(""))],
  };
  const look = writers.register(reconciler);
  authority.onChange(() => {
    for (const key of keys) look(key);
  });
}

/** `key`: "<namespace>/<name>" */
export function rootConfigMap(key: string, rootsPem: string): Desired {
  const slash = key.indexOf("/");
  const fields = {
    metadata: { labels: { "app.kubernetes.io/managed-by": "fairlead" } },
    data: { [dataKey]: rootsPem },
  };
  return {
    at: {
      group: "",
      version: "v1",
      kind: "ConfigMap",
      plural: "configmaps",
      namespace: key.slice(0, slash),
      name: key.slice(slash + 1),
    },
    change: (present) => (covers(present, fields) ? undefined : { kind: "apply", fields, isStatus: false }),
  };
}
