// A container runtime's half of CNI, as libcni does it: the plugins of a list one after the other, each with the result of those before, by
// real programs in a node's network namespace; DEL in reverse, with what ADD came to.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configFiles, ownFile } from "../../agent/cni/conflist.ts";
import { type Finished, finish, run } from "../lab/command.ts";

export interface ChainPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}
export interface CniError {
  readonly code: number;
  readonly msg: string;
  readonly details?: string;
}
type Outcome = { readonly ok: true } | { readonly ok: false; readonly plugin: string; readonly error: CniError };

/** The network of one sandbox. */
export class Sandbox {
  readonly pod: ChainPod;
  readonly id: string;
  readonly netns: string;
  readonly path: string;
  readonly #chain: CniChain;
  #result: unknown;

  constructor(chain: CniChain, pod: ChainPod, id: string) {
    this.#chain = chain;
    this.pod = pod;
    this.id = id;
    this.netns = `${chain.prefix}${id}`;
    this.path = `/run/netns/${this.netns}`;
  }
  /** The plugins in turn; the first that fails ends it. */
  async add(): Promise<Outcome> {
    for (const plugin of this.#chain.plugins()) {
      const done = await this.#chain.call(plugin, "ADD", this, this.#result);
      if (done.code !== 0)
        return { ok: false, plugin: String(plugin.type), error: JSON.parse(done.stdout) as CniError };
      this.#result = JSON.parse(done.stdout);
    }
    return { ok: true };
  }
  /** In reverse; what the last one printed where it failed. */
  async del(): Promise<Outcome> {
    for (const plugin of [...this.#chain.plugins()].reverse()) {
      const done = await this.#chain.call(plugin, "DEL", this, this.#result);
      if (done.code !== 0)
        return { ok: false, plugin: String(plugin.type), error: JSON.parse(done.stdout) as CniError };
    }
    return { ok: true };
  }
  get address(): string {
    const { ips } = this.#result as { ips: readonly { address: string }[] };
    return (ips[0]?.address ?? "").split("/")[0] ?? "";
  }
}

export class CniChain {
  readonly confDir: string;
  readonly binDir: string;
  /** Of the namespaces' names. */
  readonly prefix: string;
  readonly #dir: string;
  readonly #node: string;
  readonly #programs: readonly string[];
  readonly #sandboxes: Sandbox[] = [];

  /** @param node network namespace that plugins run in; @param programs folders of plugins beside the chain's own */
  constructor(node: string, prefix: string, programs: readonly string[]) {
    this.prefix = prefix;
    this.#dir = mkdtempSync(join(tmpdir(), "fairlead-cni-"));
    this.confDir = join(this.#dir, "net.d");
    this.binDir = join(this.#dir, "bin");
    this.#node = node;
    this.#programs = programs;
    for (const folder of [this.confDir, this.binDir]) mkdirSync(folder);
  }
  /** Of the folder's first file. */
  plugins(): readonly Record<string, unknown>[] {
    const names = readdirSync(this.confDir);
    const first = names.includes(ownFile) ? ownFile : configFiles(names)[0];
    if (first === undefined) throw new Error(`no configuration in ${this.confDir}`);
    const { cniVersion, name, plugins } = JSON.parse(readFileSync(join(this.confDir, first), "utf8"));
    return plugins.map((plugin: object) => ({ ...plugin, cniVersion, name }));
  }
  async call(
    plugin: Record<string, unknown>,
    command: string,
    sandbox: Sandbox,
    prevResult: unknown,
  ): Promise<Finished> {
    const { pod, id, path } = sandbox;
    const args = `IgnoreUnknown=1;K8S_POD_NAMESPACE=${pod.namespace};K8S_POD_NAME=${pod.name};K8S_POD_INFRA_CONTAINER_ID=${id};K8S_POD_UID=${pod.uid}`;
    const folders = [this.binDir, ...this.#programs].join(":");
    const env = {
      ...{ CNI_COMMAND: command, CNI_CONTAINERID: id, CNI_NETNS: path, CNI_IFNAME: "eth0", CNI_ARGS: args },
      ...{ CNI_PATH: folders, PATH: `${folders}:/usr/sbin:/usr/bin:/sbin:/bin` },
    };
    const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    return finish(["ip", "netns", "exec", this.#node, "env", "-i", ...words, String(plugin.type)], {
      input: JSON.stringify({ ...plugin, ...(prevResult === undefined ? {} : { prevResult }) }),
      timeoutMs: 120_000,
    });
  }
  /** A namespace without a network. */
  async sandbox(pod: ChainPod, id: string): Promise<Sandbox> {
    const sandbox = new Sandbox(this, pod, id);
    await run(["ip", "netns", "add", sandbox.netns]);
    this.#sandboxes.push(sandbox);
    await run(["ip", "-n", sandbox.netns, "link", "set", "lo", "up"]);
    return sandbox;
  }
  async close(): Promise<void> {
    for (const { netns } of this.#sandboxes) await finish(["ip", "netns", "del", netns]);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
