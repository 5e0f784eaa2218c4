// What `lab up` is asked for, handed to the supervisor as a file; and what the lab says about itself. Shared by the supervisor and those who ask it.
import type { DaemonStatus } from "./daemon.ts";
import type { Problem } from "./objects.ts";

export interface LabOptions {
  readonly name: string;
  readonly manifests: string;
  /** 0: as many as the manifests name, at least two. */
  readonly nodes: number;
  readonly agents: boolean;
  readonly agentEnv: Readonly<Record<string, string>>;
  /** Words before the agent's command line: what takes something away from it, such as a capability or a mount. Must end in exec. */
  readonly agentPrefix: readonly string[];
  readonly controllerEnv: Readonly<Record<string, string>>;
  /** How long `up` waits for pods to be ready; what is not ready by then is said, and is no failure. */
  readonly waitReadyMs: number;
}

export const defaultOptions = {
  nodes: 0,
  agents: true,
  agentEnv: {},
  agentPrefix: [],
  controllerEnv: {},
  waitReadyMs: 45_000,
} as const;

export interface PodStatus {
  readonly namespace: string;
  readonly name: string;
  readonly node: string;
  readonly ips: readonly string[];
  readonly phase: string;
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
  readonly restarts: number;
  readonly meshed: boolean;
  readonly enrolled: string;
  readonly netns: string;
  readonly cgroup: string;
  readonly pauseProcess: number;
  readonly log: string;
}

export interface NodeStatus {
  readonly name: string;
  readonly ips: readonly string[];
  readonly netns: string;
  readonly cgroup: string;
  readonly adminSocket: string;
  readonly agent: DaemonStatus | null;
}

export interface LabStatus {
  readonly name: string;
  readonly state: "starting" | "up" | "stopping" | "failed";
  readonly error: string;
  readonly manifests: string;
  readonly startedMs: number;
  readonly supervisor: number;
  readonly routerNetns: string;
  readonly controller: (DaemonStatus & { readonly adminSocket: string }) | null;
  readonly nodes: readonly NodeStatus[];
  readonly pods: readonly PodStatus[];
  readonly services: readonly ServiceStatus[];
  readonly problems: readonly Problem[];
}

export interface ServiceStatus {
  readonly namespace: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly endpoints: readonly string[];
  readonly ports: readonly { readonly port: number; readonly endpoints: readonly string[] }[];
}
