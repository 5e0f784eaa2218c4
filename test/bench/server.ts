// The servers in the pod that is measured: nginx with 1 KiB answers and an iperf3 server; nginx can be ended as a dying pod's would be, and started again.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ended } from "../lab/command.ts";
import { fill } from "./peers.ts";
import { type Place, startIn } from "./place.ts";

export interface Servers {
  /** Ends nginx at once (all its connections with it) and starts it anew; resolves when it listens. */
  restartWeb(): Promise<void>;
}

/** 1 KiB. */
export const answerBody = "Fairlead benchmark body. ".repeat(41).slice(0, 1024);

/** Whether something in the place's namespace listens on a port (any family), read from the kernel's table so that no connection is made. */
async function listening(pid: number, port: number): Promise<boolean> {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return ["tcp", "tcp6"].some((table) => {
    let text = "";
    try {
      text = readFileSync(`/proc/${pid}/net/${table}`, "utf8");
    } catch {
      return false;
    }
    return text.split("\n").some((line) => {
      const [, local = "", , state = ""] = line.trim().split(/\s+/);
      return local.endsWith(wanted) && state === "0A";
    });
  });
}

/** Resolves when a program listens on a port of its namespace; an error after 10 s. */
export async function untilListening(pid: number | undefined, port: number, what: string): Promise<void> {
  for (let waited = 0; waited < 10_000; waited += 20) {
    if (pid !== undefined && (await listening(pid, port))) return;
    await sleep(20);
  }
  throw new Error(`${what} does not listen on port ${port} after 10 s`);
}

/** Starts both servers in the pod; they end with its cgroup. @param dir a folder for configuration, logs and pid files */
export async function startServers(pod: Place, dir: string): Promise<Servers> {
  const home = join(dir, "nginx");
  mkdirSync(home, { recursive: true });
  const config = fill("nginx.conf", join(home, "nginx.conf"), { DIR: home, BODY: answerBody });
  const startWeb = async () => {
    const child = startIn(
      pod,
      ["nginx", "-p", home, "-c", config, "-e", join(home, "error.log")],
      join(home, "out.log"),
    );
    await untilListening(child.pid, 8080, "nginx");
    return child;
  };
  let web = await startWeb();
  const iperf = startIn(pod, ["iperf3", "-s", "-p", "5201"], join(home, "iperf.log"));
  await untilListening(iperf.pid, 5201, "iperf3");
  return {
    async restartWeb() {
      const workers = readFileSync(`/proc/${web.pid}/task/${web.pid}/children`, "utf8").trim().split(" ").map(Number);
      web.kill("SIGKILL");
      for (const worker of workers) process.kill(worker, "SIGKILL");
      await ended(web);
      web = await startWeb();
    },
  };
}
