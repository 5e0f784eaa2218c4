// The unix socket of the SPIFFE Workload API: each connection's process is looked at before a byte of it is read, and again whenever it
// asks. The library that speaks gRPC knows a connection only by its peer's address, so each one is given a number there.
import { closeSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { chmod, readFile } from "node:fs/promises";
import { createServer, type Server as NetServer, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import type { SpiffeId } from "../api/names.ts";
import { SpiffeWorkloadAPIService } from "../api/spiffe.gen.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { messageOf } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { type ApiCall, type WorkloadApiParts, workloadApi } from "../identify/workload-api.ts";
import type { EnrolledPod } from "../intercept/enrol.ts";
import { cgroup2Mount } from "../intercept/host-groups.ts";
import { type PeerProcess, peerProcess, podOfPeer } from "../intercept/peer-pod.ts";
import type { Native } from "../native.ts";
import { metricNames } from "../report/metric-names.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { Certificates } from "./certificates.ts";

export interface WorkloadSocketParts extends Omit<WorkloadApiParts, "caller" | "denied"> {
  readonly path: string;
  readonly procDir: string;
  readonly cgroup: string;
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Logger;
  readonly pods: () => readonly EnrolledPod[];
}
/** More are refused: descriptors are the whole agent's. */
const maxConnections = 1_024;

export class WorkloadSocket {
  readonly #parts: WorkloadSocketParts;
  readonly #peers = new Map<string, PeerProcess>();
  readonly #grpc: Server;
  #listener: NetServer | undefined;
  #number = 0;
  #mount = "";

  constructor(parts: WorkloadSocketParts) {
    this.#parts = parts;
    this.#grpc = new Server({ "grpc.max_receive_message_length": 65_536, "grpc.max_concurrent_streams": 64 });
    this.#grpc.addService(
      SpiffeWorkloadAPIService,
      workloadApi({
        ...parts,
        caller: (call) => this.#identityOf(call),
        denied: (method, reason) => parts.log.warn("workload_api_denied", { method, reason }),
      }),
    );
  }

  /** Opens the socket under a name of its own, then moves it over that of the agent before this one: the path always answers. */
  async listen(): Promise<Result<void, string>> {
    const { path, procDir } = this.#parts;
    try {
      this.#mount = cgroup2Mount(await readFile(join(procDir, "self/mounts"), "utf8")) ?? "/sys/fs/cgroup";
      // A folder of its own, which pods may mount: nothing else of the agent's is in it.
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      const beside = `${path}.${process.pid}`;
      rmSync(beside, { force: true });
      const injector = this.#grpc.createConnectionInjector(ServerCredentials.createInsecure());
      const listener = createServer({ pauseOnConnect: true }, (socket) => {
        void this.#accept(socket).then((isKnown) => {
          if (!isKnown) return socket.destroy();
          injector.injectConnection(socket);
          socket.resume();
        });
      });
      listener.maxConnections = maxConnections;
      await new Promise<void>((resolve, reject) => {
        listener.once("error", reject);
        listener.listen(beside, resolve);
      });
      listener.on("error", (error) => this.#parts.log.error("workload_socket_error", { message: messageOf(error) }));
      this.#listener = listener;
      // Whoever may open it is nobody yet: what counts is the process.
      await chmod(beside, 0o666);
      renameSync(beside, path);
      return ok(undefined);
    } catch (error) {
      return err(`FAIRLEAD_WORKLOAD_SOCKET: ${messageOf(error)}`);
    }
  }

  async close(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    const closed = new Promise<void>((resolve) =>
      listener === undefined ? resolve() : listener.close(() => resolve()),
    );
    this.#grpc.forceShutdown();
    for (const peer of this.#peers.values()) release(peer);
    this.#peers.clear();
    await closed;
  }

  /** Notes who is at the other end. Nothing is read meanwhile, so the socket stays open and its descriptor means this socket. */
  async #accept(socket: Socket): Promise<boolean> {
    const { native, procDir, log } = this.#parts;
    socket.on("error", () => {});
    const fd = (socket as unknown as { readonly _handle: { readonly fd: number } | null })._handle?.fd ?? -1;
    const asked = await native.call("peer.of", { fd });
    if (!asked.ok) {
      log.warn("workload_peer_unknown", { ...asked.error });
      return false;
    }
    const { pid, pidfd } = asked.value;
    const peer = await peerProcess(procDir, pid, pidfd ?? undefined);
    if (!peer.ok || this.#listener === undefined) {
      if (pidfd !== null) closeSync(pidfd);
      if (!peer.ok) log.warn("workload_peer_unknown", { pid, message: peer.error });
      return false;
    }
    const name = `peer-${++this.#number}`;
    Object.defineProperty(socket, "remoteAddress", { value: name });
    this.#peers.set(name, peer.value);
    socket.once("close", () => {
      if (this.#peers.delete(name)) release(peer.value);
    });
    return !socket.destroyed;
  }

  async #identityOf(call: ApiCall): Promise<Result<SpiffeId, string>> {
    const { procDir, cgroup, pods } = this.#parts;
    const peer = this.#peers.get(call.getPeer());
    if (peer === undefined) return err("the connection is not known");
    const pod = await podOfPeer({ proc: procDir, mount: this.#mount, root: cgroup }, peer, pods());
    return pod === undefined ? err(`the process ${peer.pid} is in no pod of the mesh on this node`) : ok(pod.identity);
  }
}

/** Of what the agent's other parts know. Not yet listening. */
export function openWorkloadSocket(parts: {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly native: Native;
  readonly state: MeshState;
  readonly pods: { all(): readonly EnrolledPod[] };
  readonly certificates: Certificates;
}): WorkloadSocket {
  const { config, clock, log, metrics, native, state, pods, certificates } = parts;
  const answers = metrics.counter(metricNames.workloadApi);
  return new WorkloadSocket({
    path: config.workloadSocket,
    procDir: config.procDir,
    cgroup: config.cgroup,
    native,
    clock,
    log,
    pods: () => pods.all(),
    svid: (identity) => certificates.svids.current(identity),
    ready: (identity, ms) => certificates.svids.ready(identity, ms),
    bundles: () => state.bundles,
    ownDomain: () => state.settings.trustDomain,
    aliases: () => state.settings.trustDomainAliases,
    jwt: (identity, audience) => certificates.authority.issueJwt(identity, audience),
    onChange: (changed) => certificates.onChange(changed),
    answered: (method, outcome) => answers.add({ method, outcome }),
  });
}

function release(peer: PeerProcess): void {
  if (peer.pidfd !== undefined) closeSync(peer.pidfd);
}
