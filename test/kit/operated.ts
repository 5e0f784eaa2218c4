// A controller of this process on an API server, for tests of what it writes; quick, and gone without a trace of its own.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { createController } from "../../controller/app.ts";
import { readConfig } from "../../controller/config.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import type { ClusterPaths } from "../cluster/paths.ts";
import { call } from "./controller.ts";
import { sharedCa } from "./shared-ca.ts";
import { waitFor } from "./wait.ts";

export interface Operating extends AsyncDisposable {
  /** Sum of the metric's samples whose labels contain `labels`. */
  metric(name: string, labels?: string): Promise<number>;
  stop(): Promise<void>;
}

/** Settings under which nothing is waited for but what others take. */
export const eager = {
  FAIRLEAD_SOURCE: "kubernetes",
  FAIRLEAD_MANIFESTS: "",
  FAIRLEAD_LIVE_DIR: "",
  FAIRLEAD_SETTLE_MS: "5",
  FAIRLEAD_STATUS_SPACING_MS: "0",
  FAIRLEAD_WRITE_CONCURRENCY: "4",
  FAIRLEAD_WRITE_REQUESTS_PER_SECOND: "10000",
  FAIRLEAD_WRITE_BACKOFF_MS: "50",
  FAIRLEAD_WRITE_BACKOFF_MAX_MS: "1000",
  FAIRLEAD_LEASE_RETRY_MS: "250",
};

/** Started and ready; leads when nobody else does. */
export async function operate(kubeconfig: string, env: Readonly<Record<string, string>> = {}): Promise<Operating> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-operator-"));
  const config = readConfig({
    ...eager,
    FAIRLEAD_KUBECONFIG: kubeconfig,
    FAIRLEAD_STATE_DIR: join(dir, "state"),
    FAIRLEAD_LISTEN: "127.0.0.1:0",
    FAIRLEAD_HEALTH_LISTEN: "127.0.0.1:0",
    FAIRLEAD_ADMIN_LISTEN: "off",
    FAIRLEAD_ADMIN_SOCKET: join(dir, "admin.sock"),
    ...(await sharedCa()),
    ...env,
  });
  if (!config.ok) throw new Error(config.error.join("; "));
  const controller = await createController(config.value, systemClock, silentLogger);
  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    stopping ??= Promise.resolve(controller.shutdown(2_000)).then(() => rmSync(dir, { recursive: true, force: true }));
    return stopping;
  };
  try {
    await controller.start();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    async metric(name, labels = "") {
      const { text } = await call({ host: "127.0.0.1", port: controller.ports.health }, "GET", "/metrics");
      return text
        .split("\n")
        .filter((line) => line.startsWith(`${name}{`) && line.includes(labels))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Applies objects as a field manager of one's own; a kind that has just been defined may need a moment. */
export async function applyAs(api: KubeApi, manager: string, objects: readonly KubeObject[]): Promise<void> {
  await Promise.all(
    objects.map(async (object) => {
      const path = `${await api.pathOf(object)}?fieldManager=${manager}&force=true`;
      await api.call("PATCH", path, object, "application/apply-patch+yaml");
    }),
  );
}
/** Waits until a kind is served after its definition was applied. */
export const served = (api: KubeApi, path: string): Promise<unknown> =>
  waitFor(`${path} is served`, () => api.call("GET", path).then(Boolean, () => false));

/** A kubeconfig with the rights of the controller's manifest, and no more. */
export async function withRights(
  api: KubeApi,
  cluster: Pick<ClusterPaths, "pki">,
): Promise<{ readonly path: string } & Disposable> {
  for (const object of parseObjects(readFileSync("manifests/kubernetes/controller-rbac.yaml", "utf8")))
    await api.apply(object);
  const asked = await api.call("POST", "/api/v1/namespaces/fairlead-system/serviceaccounts/fairlead-controller/token", {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec: { expirationSeconds: 36_000 },
  });
  const { token } = (JSON.parse(asked) as { status: { token: string } }).status;
  const root = readFileSync(join(cluster.pki, "ca.crt")).toString("base64");
  const dir = mkdtempSync(join(tmpdir(), "fairlead-rights-"));
  const path = join(dir, "kubeconfig");
  const config = {
    "current-context": "it",
    clusters: [{ name: "it", cluster: { server: api.server, "certificate-authority-data": root } }],
    contexts: [{ name: "it", context: { cluster: "it", user: "it", namespace: "fairlead-system" } }],
    users: [{ name: "it", user: { token } }],
  };
  writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
  return { path, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}
