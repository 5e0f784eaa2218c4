// Traffic clients in pods that are talked to through files of the machine: unlike `kubectl exec` they go on while there is no API server.
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { run } from "../lab/command.ts";
import { trafficCommand } from "../lab/programs.ts";
import { machinePod } from "./mesh-cluster.ts";
import { waitFor } from "./wait.ts";

const PATIENCE_MS = 180_000;

export class FileClient implements Disposable {
  readonly pod: KubeObject;
  readonly name: string;
  readonly #out: string;
  readonly #input: number;
  #taken = 0;

  private constructor(name: string, node: string, [input, out]: readonly [string, string]) {
    this.name = name;
    this.#out = out;
    // For reading, too: so it is never without a reader, nor at its end.
    this.#input = openSync(input, "r+");
    const command = trafficCommand("client", []).join(" ");
    // What is read first are the client's words: it begins when it is told to, not with its pod.
    const script = `exec <${input} >>${out} 2>&1; read -r words; exec ${command} $words`;
    this.pod = machinePod(name, node, ["sh", "-c", script]);
  }
  /** The files lie in `folder`, which nodes see as the machine does. */
  static async make(name: string, node: string, folder: string): Promise<FileClient> {
    const files = [join(folder, `${name}.in`), join(folder, `${name}.out`)] as const;
    await run(["mkfifo", files[0]]);
    writeFileSync(files[1], "");
    return new FileClient(name, node, files);
  }

  // biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
  ask(line: string): Promise<any> {
    writeSync(this.#input, `${line}\n`);
    return this.next();
  }
  // biome-ignore lint/suspicious/noExplicitAny: as above
  async next(): Promise<any> {
    const line = await waitFor(
      `${this.name} answers; it said: ${readFileSync(this.#out, "utf8").slice(-500)}`,
      () => {
        const lines = readFileSync(this.#out, "utf8").split("\n");
        return lines.length > this.#taken + 1 && lines[this.#taken];
      },
      PATIENCE_MS,
    );
    this.#taken += 1;
    return JSON.parse(line);
  }
  [Symbol.dispose](): void {
    closeSync(this.#input);
  }
}
