// A real ztunnel on a node of a lab, in the mode it has in production (one process for all pods of the node), in the place of our agent. What
// Istio's CNI plugin does for it is done here: the pods' rules, and telling it of pods (zds.py). Its workloads, policies and certificates come
// from the lab's controller.
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, closeSync, constants, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { CONTROLLER_IPS, CONTROLLER_PORT, linkNode, nodePodGateway } from "../lab/addresses.ts";
import { ended, entering, finish, run } from "../lab/command.ts";
import type { PodStatus } from "../lab/lab-options.ts";
import { netnsPath, PROJECT_DIR } from "../lab/paths.ts";
import { call } from "../lab/unix-http.ts";
import type { TestLab } from "./lab.ts";
import { waitFor } from "./wait.ts";

const setting = "FAIRLEAD_ZTUNNEL";

/** Why there is no binary to run. */
export const ztunnelLack = (): string | undefined =>
  (process.env[setting] ?? "") === "" ? `${setting} is not set (docs/ztunnel.md)` : undefined;

/** The binary to run. @throws Error that names the setting, if there is none */
export function ztunnelBinary(): string {
  const path = process.env[setting] ?? "";
  if (path === "")
    throw new Error(`${setting} is not set: give the path of a ztunnel binary (docs/ztunnel.md says how to build one)`);
  try {
    accessSync(path, constants.X_OK);
  } catch {
    throw new Error(`${setting}=${path}: there is no program`);
  }
  return path;
}

export interface AccessLine {
  readonly message: string;
  readonly scope: string;
  readonly direction?: string;
  readonly error?: string;
  readonly [field: string]: unknown;
}

/** Marks ztunnel's own sockets, and what the pod's replies to them are known by. */
const rules = (probers: { readonly v4: string; readonly v6: string }): string => `
table inet ztunnel {
  chain seen {
    type filter hook prerouting priority mangle;
    meta mark & 0xfff == 0x539 ct mark set 0x111
  }
  chain answered {
    type route hook output priority mangle;
    ct mark & 0xfff == 0x111 meta mark set 0x111
  }
  chain arriving {
    type nat hook prerouting priority dstnat;
    ip saddr { ${probers.v4} } accept
    ip6 saddr { ${probers.v6} } accept
    meta mark & 0xfff == 0x539 accept
    ip daddr 127.0.0.1 accept
    meta l4proto tcp tcp dport != 15008 redirect to :15006
  }
  chain leaving {
    type nat hook output priority -100;
    meta mark & 0xfff == { 0x111, 0x539 } accept
    oifname lo accept
    meta l4proto tcp redirect to :15001
  }
}
`;

export interface ZtunnelOptions {
  readonly node: string;
  readonly pods: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export class Ztunnel {
  readonly #lab: TestLab;
  readonly #options: ZtunnelOptions;
  readonly #netns: string;
  readonly logFile: string;
  readonly #socket: string;
  #cni: ChildProcess | undefined;
  #child: ChildProcess | undefined;
  readonly #said: Record<string, unknown>[] = [];

  private constructor(lab: TestLab, options: ZtunnelOptions) {
    this.#lab = lab;
    this.#options = options;
    this.#netns = lab.node(options.node).netns;
    this.logFile = join(lab.node(options.node).dir, "ztunnel.log");
    this.#socket = join(lab.node(options.node).dir, "zds.sock");
  }

  /** Takes our agent off the node's place, gives the pods their rules, and waits until ztunnel says that it is ready. */
  static async start(lab: TestLab, options: ZtunnelOptions): Promise<Ztunnel> {
    const ztunnel = new Ztunnel(lab, options);
    await lab.agent(options.node, "stop");
    await ztunnel.#startCni();
    for (const pod of options.pods) await ztunnel.add(pod);
    await ztunnel.run();
    return ztunnel;
  }

  async #startCni(): Promise<void> {
    const cni = spawn("python3", [join(PROJECT_DIR, "test/kit/zds.py"), this.#socket], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#cni = cni;
    createInterface({ input: cni.stdout }).on("line", (line) => this.#said.push(JSON.parse(line)));
    await waitFor("the CNI's socket", () => this.#said.some((line) => "listening" in line));
  }

  /** A pod joins: rules in its namespace, then ztunnel is told. */
  async add(key: string): Promise<void> {
    const pod = await this.#lab.pod(key);
    const place = [`nsenter`, `--net=${netnsPath(pod.netns)}`, "--"];
    const gateway = nodePodGateway(this.#number);
    const link = linkNode(this.#number);
    // What the kubelet's probes come from passes, as Istio's CNI lets it.
    const probers = { v4: `${gateway.v4}, ${link.v4}`, v6: `${gateway.v6}, ${link.v6}` };
    await run([...place, "nft", "-f", "-"], { input: rules(probers) });
    for (const family of ["-4", "-6"]) {
      await run([...place, "ip", family, "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"]);
      await run([...place, "ip", family, "route", "add", "local", "default", "dev", "lo", "table", "100"]);
    }
    const { namespace, name } = pod;
    await this.#tell({ add: { uid: key, namespace, name, serviceAccount: name, netns: netnsPath(pod.netns) } });
  }

  /** A pod goes: its connections end and no new ones are taken. */
  async remove(pod: PodStatus): Promise<void> {
    await this.#tell({ del: `${pod.namespace}/${pod.name}` });
  }

  async #tell(change: unknown): Promise<void> {
    const before = this.#said.length;
    this.#cni?.stdin?.write(`${JSON.stringify(change)}\n`);
    const answer = await waitFor("an answer of ztunnel", () =>
      this.#said.slice(before).find((line) => "told" in line || "held" in line),
    );
    if (answer.error !== undefined && answer.error !== "") throw new Error(`ztunnel: ${String(answer.error)}`);
  }

  get #number(): number {
    return Number(this.#options.node.replace("node", ""));
  }

  /** Starts the process (again). */
  async run(extra: Readonly<Record<string, string>> = {}): Promise<void> {
    const { node } = this.#options;
    const paths = this.#lab.node(node);
    const { token } = await this.#lab.askController("/v1/node-tokens", "POST", { node });
    const tokenFile = join(paths.dir, "istio-token");
    writeFileSync(tokenFile, String(token), { mode: 0o600 });
    const rootsFile = await this.mountRoots();
    const controller = `https://${CONTROLLER_IPS[0]}:${CONTROLLER_PORT}`;
    const env = {
      PATH: process.env.PATH ?? "",
      RUST_LOG: "info",
      LOG_FORMAT: "json",
      PROXY_MODE: "shared",
      INPOD_UDS: this.#socket,
      NODE_NAME: node,
      CLUSTER_ID: "Kubernetes",
      INSTANCE_IP: linkNode(this.#number).v4,
      POD_NAME: `ztunnel-${node}`,
      POD_NAMESPACE: "istio-system",
      SERVICE_ACCOUNT: "ztunnel",
      XDS_ADDRESS: controller,
      CA_ADDRESS: controller,
      XDS_ROOT_CA: rootsFile,
      CA_ROOT_CA: rootsFile,
      AUTH_TOKEN: tokenFile,
      ...this.#options.env,
      ...extra,
    };
    const place = { cgroup: paths.agentCgroup, netns: this.#netns, cwd: paths.dir };
    const [file = "", ...args] = entering(place, [ztunnelBinary(), "proxy", "ztunnel"]);
    const log = openSync(this.logFile, "a");
    this.#child = spawn(file, args, { stdio: ["ignore", log, log], env });
    closeSync(log);
    await waitFor("a ready ztunnel", async () => {
      if (this.#child?.exitCode !== null) throw new Error(`ztunnel ended: ${this.log().slice(-2000)}`);
      return (await this.ask("15021/healthz/ready").catch(() => "")) !== "";
    });
  }

  /** Writes the trusted roots as they are, as the kubelet does with the ConfigMap that it mounts. */
  async mountRoots(): Promise<string> {
    const roots = await call(this.#lab.paths.controllerSocket, "/v1/roots");
    if (!roots.ok) throw new Error(roots.error);
    const file = join(this.#lab.node(this.#options.node).dir, "istio-roots.pem");
    writeFileSync(file, roots.value.text);
    return file;
  }

  log(): string {
    return readFileSync(this.logFile, "utf8");
  }

  /** What it has logged of ended connections. */
  accesses(): readonly AccessLine[] {
    return this.log()
      .split("\n")
      .filter((line) => line.startsWith("{") && line.includes('"access"'))
      .map((line) => JSON.parse(line) as AccessLine);
  }

  /** @param place "port/path", on the node */
  async ask(place: string): Promise<string> {
    const [, port = "", path = ""] = /^(\d+)(\/.*)$/.exec(place) ?? [];
    const program = `const r = await fetch("http://localhost:${port}${path}"); if (!r.ok) throw r.status; console.log(await r.text())`;
    const inNode = ["nsenter", `--net=${netnsPath(this.#netns)}`, "--"];
    const done = await finish([...inNode, process.execPath, "--input-type=module", "-e", program], {
      timeoutMs: 10_000,
    });
    if (done.code !== 0) throw new Error(`ztunnel ${place}: ${done.stderr.trim().slice(-300)}`);
    return done.stdout;
  }

  /** Ends the process; the pods keep their rules, as on a node whose ztunnel is away. */
  async end(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    child.kill(signal);
    const late = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await ended(child);
    clearTimeout(late);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
    this.#cni?.stdin?.end();
    if (this.#cni !== undefined) await ended(this.#cni);
  }
}
