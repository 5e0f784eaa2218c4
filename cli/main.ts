// The command `fairlead`: finds the command, reads its words, turns failures into one line and an exit code.

import { certs } from "./certs.ts";
import { check } from "./check.ts";
import { type Command, helpOf, type Output } from "./command.ts";
import { connections, top } from "./connections.ts";
import { demo } from "./demo.ts";
import { diag } from "./diag.ts";
import { enrol } from "./enrol.ts";
import { explain } from "./explain.ts";
import { install } from "./install.ts";
import { labCommands } from "./lab.ts";
import { didYouMean } from "./nearest.ts";
import { routes } from "./routes.ts";
import { runCommand, runProcess } from "./run.ts";
import { status } from "./status.ts";
import { tap } from "./tap.ts";
import { uninstall } from "./uninstall.ts";

const version: Command = {
  name: "version",
  usage: "version [--json]",
  summary: "Prints the version.",
  options: { json: { type: "boolean", help: "print JSON" } },
  run: async (call) => {
    const { default: manifest } = await import("../package.json", { with: { type: "json" } });
    const facts = { version: manifest.version, node: process.version };
    call.output.out(call.flag("json") ? JSON.stringify(facts) : `fairlead ${facts.version} (Node ${facts.node})`);
    return 0;
  },
};

const commands: readonly Command[] = [
  demo,
  check,
  install,
  uninstall,
  enrol,
  status,
  explain,
  routes,
  certs,
  top,
  tap,
  connections,
  diag,
  ...labCommands,
  version,
];

function overview(): string {
  const lines = commands.map((c) => `  ${c.name.padEnd(22)} ${c.summary}`);
  return `Usage: fairlead COMMAND [options]\n\nA sidecarless service mesh: one eBPF-assisted agent per node.\n\nCommands:\n${lines.join("\n")}\n\nfairlead help COMMAND tells more about one of them.`;
}

/** The command that the first words name, longest name first ("lab up" before "lab"). */
function find(argv: readonly string[]): { readonly command: Command; readonly rest: readonly string[] } | undefined {
  for (const length of [2, 1]) {
    const command = commands.find((c) => c.name === argv.slice(0, length).join(" "));
    if (command !== undefined) return { command, rest: argv.slice(length) };
  }
  return undefined;
}

/** No command of that name: the overview, the commands of a group, or the one that was probably meant. */
function notFound(words: readonly string[], wantsHelp: boolean, output: Output): number {
  if (words.length === 0) {
    output.out(overview());
    return 0;
  }
  const [first = "", second] = words;
  const group = commands.filter((c) => c.name.startsWith(`${first} `));
  const isHelp = wantsHelp || second === "--help" || second === "-h";
  if (group.length > 0 && (second === undefined || second.startsWith("-"))) {
    output.out(group.map((c) => `fairlead ${c.usage}\n    ${c.summary}`).join("\n"));
    return isHelp ? 0 : 2;
  }
  const asked = group.length > 0 ? `${first} ${second}` : first;
  const names = [...commands.map((c) => c.name), ...new Set(commands.map((c) => c.name.split(" ")[0] ?? ""))];
  output.err(`fairlead: there is no command ${asked}${didYouMean(asked, names, "; fairlead help lists them")}`);
  return 2;
}

export async function main(argv: readonly string[], output: Output): Promise<number> {
  const wantsHelp = argv.length === 0 || ["help", "--help", "-h"].includes(argv[0] ?? "");
  if (argv[0] === "--version") return main(["version"], output);
  const words = wantsHelp ? argv.slice(1) : argv;
  const found = find(words);
  if (found === undefined) return notFound(words, wantsHelp, output);
  const { command, rest } = found;
  if (wantsHelp) {
    output.out(helpOf(command));
    return 0;
  }
  return runCommand(command, rest, output);
}

if (import.meta.main) await runProcess(main);
