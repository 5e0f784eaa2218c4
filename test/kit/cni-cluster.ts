// A cluster of two nodes whose agents have installed the CNI plugin, and pods that connect to the other node in their first instructions.
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeImage } from "../../scripts/image/oci.ts";
import type { TestCluster } from "../cluster/kit.ts";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { enteringNode, importImage } from "../cluster/kubernetes/node.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { nodePaths } from "../cluster/paths.ts";
import { Capture, type Packet } from "../lab/capture.ts";
import { run } from "../lab/command.ts";
import { type ClusterMesh, type HandAgent, startClusterMesh } from "./cluster-mesh.ts";
import { waitFor } from "./wait.ts";

const IMAGE = "fairlead.dev/test/first:1";
const PORT = 7000;
const PATIENCE_MS = 240_000;
const SOURCE = fileURLToPath(new URL("first.c", import.meta.url));
/** The first four bytes of every connection of these pods, "FLT1". */
const MARKED = "tcp[((tcp[12]&0xf0)>>2):4]=0x464c5431";

export interface PodNow {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly phase: string;
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly initContainerStatuses?: readonly ContainerNow[];
    readonly containerStatuses?: readonly ContainerNow[];
  };
}
interface ContainerNow {
  readonly name: string;
  readonly state?: { readonly terminated?: { readonly exitCode: number; readonly reason?: string } };
}
/** Codes that `first` itself ends with (first.c); any other is of whoever ended it, or did not start it. */
const ownCodes = [0, 1, 2];
/** What agents wait for others: long enough for a machine that is slow and busy, where the defaults would refuse. */
const patient = {
  FAIRLEAD_QUESTION_TIMEOUT_MS: "20000",
  FAIRLEAD_HANDSHAKE_TIMEOUT_MS: "20000",
  FAIRLEAD_CONNECT_TIMEOUT_MS: "20000",
  FAIRLEAD_SVID_WAIT_MS: "15000",
};
const other = (n: number): number => 3 - n;

export class CniCluster {
  readonly up: TestCluster;
  readonly mesh: ClusterMesh;
  readonly agents: HandAgent[] = [];
  readonly #addresses = new Map<string, string>();
  #seats = 0;

  private constructor(up: TestCluster, mesh: ClusterMesh) {
    this.up = up;
    this.mesh = mesh;
  }

  /** Both agents are ready and have installed the plugin; a server runs on each node, in namespace shop, which is in the mesh, and in namespace open, which is not. */
  static async start(up: TestCluster): Promise<CniCluster> {
    await loadImage(up);
    for (const [name, labels] of [
      ["shop", { "fairlead.dev/mesh": "enabled" }],
      ["open", {}],
    ] as const)
      await up.api.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name, labels } });
    const it = new CniCluster(up, await startClusterMesh(up.cluster, up.state, up.api));
    for (const n of [1, 2]) await it.newAgent(n);
    for (const namespace of ["shop", "open"]) for (const n of [1, 2]) await up.api.apply(serverPod(namespace, n));
    for (const namespace of ["shop", "open"]) for (const n of [1, 2]) await it.serverReady(namespace, n);
    return it;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.mesh[Symbol.asyncDispose]();
  }

  agent(n: number): HandAgent {
    const agent = this.agents[n - 1];
    if (agent === undefined) throw new Error(`no agent on node ${n}`);
    return agent;
  }
  /** Starts an agent on node `n`, which takes over from the one that is there; resolves when it is ready and the plugin installed. */
  async newAgent(n: number, env: Readonly<Record<string, string>> = {}): Promise<HandAgent> {
    this.#seats += 1;
    const agent = await this.mesh.agent(n, `s${this.#seats}`, { FAIRLEAD_CNI: "install", ...patient, ...env });
    await agent.start();
    const log = (): string => agent.log.slice(-2_000);
    await waitFor(
      `agent ${this.#seats} on node ${n} serves`,
      async () => {
        const status = await agent.ask("/v1/status");
        return status?.pid !== undefined && agent.log.includes('"event":"ready"') && status.cni.state === "installed";
      },
      PATIENCE_MS,
    ).catch((error: Error) => {
      throw new Error(`${error.message}\n${log()}`);
    });
    this.agents[n - 1] = agent;
    await agent.ready();
    return agent;
  }

  async pod(namespace: string, name: string): Promise<PodNow | undefined> {
    return this.up.api.get<PodNow>(`/api/v1/namespaces/${namespace}/pods/${name}`).catch(() => undefined);
  }
  /** The server's address may be another one after a restart of its node. */
  async serverReady(namespace: string, n: number): Promise<string> {
    const address = await waitFor(
      `server of ${namespace} on node ${n}`,
      async () => {
        const pod = await this.pod(namespace, `server-n${n}`);
        const isReady = pod?.status.conditions?.some((c) => c.type === "Ready" && c.status === "True");
        return isReady === true && pod?.status.podIP;
      },
      PATIENCE_MS,
    );
    this.#addresses.set(`${namespace}/${n}`, address);
    return address;
  }

  /** A pod on node `n` whose init container and whose container connect to the server on the other node, once each. */
  async startFirst(name: string, n: number, namespace = "shop"): Promise<void> {
    const to = this.#addresses.get(`${namespace}/${other(n)}`) ?? "";
    const container = { image: IMAGE, args: ["connect", to, String(PORT)] };
    await this.up.api.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, namespace, labels: { app: "first" } },
      spec: {
        nodeName: `n${n}`,
        restartPolicy: "Never",
        terminationGracePeriodSeconds: 0,
        initContainers: [{ name: "init", ...container }],
        containers: [{ name: "main", ...container }],
      },
    });
  }
  /** The phase that such a pod ends in. */
  ended(name: string, namespace = "shop"): Promise<string> {
    return waitFor(
      `pod ${name} has ended`,
      async () => {
        const phase = (await this.pod(namespace, name))?.status.phase;
        return (phase === "Succeeded" || phase === "Failed") && phase;
      },
      PATIENCE_MS,
    );
  }
  /**
   * Why a pod has failed, if it was the runtime: every container that did not end well was killed or never started, so none of them had a
   * connection that failed. undefined: one did.
   */
  async endedByRuntime(name: string, namespace = "shop"): Promise<string | undefined> {
    const status = (await this.pod(namespace, name))?.status;
    const all = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
    const ends = all.flatMap(({ name: container, state }) => {
      const end = state?.terminated;
      return end === undefined || end.exitCode === 0 ? [] : [{ container, ...end }];
    });
    if (ends.length === 0 || ends.some(({ exitCode }) => ownCodes.includes(exitCode))) return undefined;
    return ends.map(({ container, exitCode, reason }) => `${container}: ${reason ?? "?"} (${exitCode})`).join(", ");
  }
  /** What is known of a pod that has failed: what its containers said, and what the agents wrote of its connections. */
  async why(name: string, namespace = "shop"): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    const said = ["init", "main"].map(async (container) => {
      const log = await this.up.api.call("GET", `${path}/log?container=${container}`).catch(() => "");
      return `${container}: ${log.trim()}`;
    });
    const address = (await this.pod(namespace, name))?.status.podIP ?? "no address";
    const lines = [1, 2].flatMap((n) => {
      const { dir } = nodePaths(this.up.cluster, n);
      const files = readdirSync(dir).filter((file) => file.startsWith("access-"));
      return files.flatMap((file) => readFileSync(join(dir, file), "utf8").split("\n"));
    });
    return [...(await Promise.all(said)), ...lines.filter((line) => line.includes(address)).slice(-4)].join("\n");
  }
  /** Messages of the pod's events. */
  async events(name: string, namespace = "shop"): Promise<readonly string[]> {
    const path = `/api/v1/namespaces/${namespace}/events?fieldSelector=involvedObject.name%3D${name}`;
    return (await this.up.api.get<{ items: readonly { message?: string }[] }>(path)).items.map((e) => e.message ?? "");
  }
  async remove(name: string, namespace = "shop"): Promise<void> {
    await this.up.api.call("DELETE", `/api/v1/namespaces/${namespace}/pods/${name}`);
  }
  async gone(name: string, namespace = "shop"): Promise<void> {
    await waitFor(`pod ${name} is gone`, async () => (await this.pod(namespace, name)) === undefined, PATIENCE_MS);
  }

  /** Connections that came to node `n`'s servers through tunnels. */
  async tunnelled(n: number): Promise<number> {
    const labels = [
      'reporter="destination"',
      'connection_security_policy="mutual_tls"',
      'destination_workload_namespace="shop"',
    ];
    return String(await this.agent(n).ask("/metrics"))
      .split("\n")
      .filter((l) => l.startsWith("istio_tcp_connections_closed_total{") && labels.every((text) => l.includes(text)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }
  /** Network namespaces that runtimes have named on node `n`. */
  async namespaces(n: number): Promise<number> {
    const words = [...enteringNode(hierarchies(), nodePaths(this.up.cluster, n)), "ls", "/run/netns"];
    return (await run(words)).split("\n").filter((name) => name.startsWith("cni-")).length;
  }
  /** Packets between the nodes that begin with the marker. `stop` ends with connections of pods outside the mesh, which must be among them. */
  async watchWire(): Promise<{ stop(): Promise<{ readonly plain: number; readonly control: number }> }> {
    const { cluster } = this.up;
    const capture = await Capture.start(cluster.netns, "n1", join(cluster.dir, `wire-${this.#seats}.pcap`), MARKED);
    return {
      stop: async () => {
        for (const n of [1, 2]) await this.serverReady("open", n);
        for (const n of [1, 2]) await this.startFirst(`control-n${n}`, n, "open");
        for (const n of [1, 2]) {
          const phase = await this.ended(`control-n${n}`, "open");
          if (phase !== "Succeeded") throw new Error(`the control on node ${n}: ${phase}`);
        }
        const open = new Set([1, 2].map((n) => this.#addresses.get(`open/${n}`)));
        const isOpen = (p: Packet): boolean => open.has(p.source) || open.has(p.destination);
        const packets = await capture.stop();
        for (const n of [1, 2]) await this.remove(`control-n${n}`, "open");
        return { plain: packets.filter((p) => !isOpen(p)).length, control: packets.filter(isOpen).length };
      },
    };
  }
}

const serverPod = (namespace: string, n: number): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: `server-n${n}`, namespace, labels: { app: "server" } },
  spec: {
    nodeName: `n${n}`,
    terminationGracePeriodSeconds: 0,
    containers: [
      {
        name: "server",
        image: IMAGE,
        args: ["serve", String(PORT)],
        ports: [{ containerPort: PORT }],
        readinessProbe: { tcpSocket: { port: PORT }, periodSeconds: 1 },
      },
    ],
  },
});

async function loadImage({ cluster, state }: TestCluster): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), "fairlead-first-"));
  try {
    const [root, program, file] = [join(scratch, "root"), join(scratch, "first"), join(scratch, "image.tar")];
    await run(["gcc", "-Os", "-static", "-s", "-Wall", "-Werror", "-o", program, SOURCE]);
    mkdirSync(root);
    copyFileSync(program, join(root, "first"));
    await writeImage(root, file, { name: IMAGE, entrypoint: ["/first"] });
    for (const n of [1, 2]) await importImage(cluster, state, n, file);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
