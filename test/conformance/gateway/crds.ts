// The Gateway API's definitions, of the version that the suite is of: out of the same Go modules.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { KubeApi } from "../../cluster/kubernetes/api.ts";
import { parseObjects } from "../../cluster/kubernetes/objects.ts";
import { until } from "../../cluster/machine/wait.ts";
import { run } from "../../lab/command.ts";
import { suiteModule } from "./modules.ts";

const ESTABLISHED_MS = 60_000;

interface Definition {
  readonly metadata: { readonly name: string };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Folder of the published definitions, standard channel. @throws Error with what `go` says */
async function definitionsFolder(): Promise<string> {
  const go = (...words: string[]): Promise<string> =>
    run(["go", "-C", suiteModule.folder, ...words], { timeoutMs: 300_000 });
  await go("mod", "download", "sigs.k8s.io/gateway-api");
  const folder = await go("list", "-m", "-mod=readonly", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api");
  return join(folder.trim(), "config/crd/standard");
}

/** Installs them and waits until the API server has taken them in. */
export async function applyGatewayApi(api: KubeApi, say: (line: string) => void): Promise<void> {
  const folder = await definitionsFolder();
  const files = readdirSync(folder).filter((name) => name.endsWith(".yaml") && name !== "kustomization.yaml");
  const objects = files.sort().flatMap((name) => parseObjects(readFileSync(join(folder, name), "utf8")));
  for (const object of objects) await api.apply(object);
  const names = objects.filter((o) => o.kind === "CustomResourceDefinition").map((o) => o.metadata.name);
  const what = `${names.length} definitions of the Gateway API are established`;
  await until({ what, timeoutMs: ESTABLISHED_MS, say }, async () => {
    const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    const { items } = await api.get<{ items: readonly Definition[] }>(path);
    const done = items.filter((d) =>
      d.status?.conditions?.some((c) => c.type === "Established" && c.status === "True"),
    );
    return names.every((name) => done.some((d) => d.metadata.name === name));
  });
}
