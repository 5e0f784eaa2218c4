// A mesh as commands see it, whether it is a lab's or a cluster's: who can be asked, and which pods and services there are.
import type { ServiceStatus } from "../test/lab/lab-options.ts";
import type { Problem } from "../test/lab/objects.ts";
import type { Place } from "../test/lab/unix-http.ts";

export interface PodView {
  readonly namespace: string;
  readonly name: string;
  readonly node: string;
  readonly ips: readonly string[];
  /** Whether it is to be in the mesh. */
  readonly meshed: boolean;
  /** "yes" where its agent has it, else why not. */
  readonly enrolled: string;
  readonly reason: string;
  readonly message: string;
}
export interface NodeView {
  readonly name: string;
  /** Admin socket of its agent. */
  readonly admin: Place;
}
export interface ControllerView {
  readonly name: string;
  readonly admin: Place;
}
export interface MeshView {
  /** "lab demo" or "cluster NAME". */
  readonly title: string;
  /** Fields that name it in JSON. */
  readonly named: Readonly<Record<string, string>>;
  /** The replica that knows most of objects, and writes their statuses. */
  readonly controller: Place;
  /** All replicas, that one first: an agent is connected to one of them. */
  readonly controllers: readonly ControllerView[];
  /** What to do when the controller does not answer. */
  readonly controllerHint: string;
  readonly nodes: readonly NodeView[];
  pods(): Promise<readonly PodView[]>;
  services(): Promise<readonly ServiceStatus[]>;
  /** What is wrong beside what the controller says. */
  readonly problems: readonly Problem[];
  /** Ends connections that are kept; without it the process would not end. */
  close(): void;
}
