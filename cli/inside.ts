// The command `fairlead` inside an image, beside a running agent or controller: asks its admin socket, or passes on what others ask.
import { connect } from "node:net";
import { call } from "../test/lab/unix-http.ts";
import { type Command, Failure, type Output, UsageError } from "./command.ts";
import { runCommand } from "./run.ts";

const socket = { type: "string", value: "PATH", help: "admin socket (default: $FAIRLEAD_ADMIN_SOCKET)" } as const;

function socketOf(given: string | undefined): string {
  const path = given ?? process.env.FAIRLEAD_ADMIN_SOCKET;
  if (path === undefined || path === "")
    throw new UsageError("no admin socket: set FAIRLEAD_ADMIN_SOCKET or give --socket PATH");
  return path;
}

const ask: Command = {
  name: "ask",
  usage: "ask [--socket PATH] [--post JSON] PATH",
  summary: "Asks the admin socket beside it and prints the answer: fairlead ask /v1/status",
  options: { socket, post: { type: "string", value: "JSON", help: "send this body with POST" } },
  run: async (words) => {
    const [path] = words.words;
    if (path === undefined || words.words.length > 1) throw new UsageError("say what to ask for, as /v1/status");
    const post = words.text("post");
    const sent = post === undefined ? {} : { method: "POST" as const, body: bodyOf(post) };
    const reply = await call(socketOf(words.text("socket")), path, { ...sent, timeoutMs: 60_000 });
    if (!reply.ok) throw new Failure(reply.error);
    words.output.out(reply.value.text.trimEnd());
    return reply.value.status < 300 ? 0 : 1;
  },
};

function bodyOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new UsageError(`--post ${JSON.stringify(text)}: is not JSON`);
  }
}

const relay: Command = {
  name: "relay",
  usage: "relay [--socket PATH]",
  summary: "Passes bytes between standard input and output and the admin socket, for fairlead on another machine.",
  options: { socket },
  run: (words) =>
    new Promise((resolve, reject) => {
      const path = socketOf(words.text("socket"));
      const peer = connect(path);
      peer.on("error", (error) => reject(new Failure(`${path}: ${error.message}`)));
      peer.on("close", () => resolve(0));
      // Whoever asked is gone with the input's end: nothing of ours stays in the pod.
      process.stdin.pipe(peer).pipe(process.stdout);
      peer.on("close", () => process.stdin.destroy());
    }),
};

const version: Command = {
  name: "version",
  usage: "version",
  summary: "Prints the version.",
  options: {},
  run: async (words) => {
    const { default: manifest } = await import("../package.json", { with: { type: "json" } });
    words.output.out(`fairlead ${manifest.version} (Node ${process.version})`);
    return 0;
  },
};

export const insideCommands: readonly Command[] = [ask, relay, version];

const help = (): string =>
  `Usage: fairlead COMMAND [options]\n\nCommands:\n${insideCommands.map((c) => `  ${c.usage.padEnd(42)} ${c.summary}`).join("\n")}`;

export async function main(argv: readonly string[], output: Output): Promise<number> {
  const [name = "", ...rest] = argv;
  if (["", "help", "--help", "-h"].includes(name)) {
    output.out(help());
    return name === "" ? 2 : 0;
  }
  const command = insideCommands.find((c) => c.name === name);
  if (command === undefined) {
    output.err(
      `fairlead: there is no command ${name} in an image; there are: ${insideCommands.map((c) => c.name).join(", ")}`,
    );
    return 2;
  }
  return runCommand(command, rest, output);
}
