// Runs one command, and a process that is a command: failures become one line and an exit code.
import { type Command, Failure, helpOf, type Output, readCall, UsageError } from "./command.ts";

/** Runs `command` with the words after its name. @returns the exit code */
export async function runCommand(command: Command, rest: readonly string[], output: Output): Promise<number> {
  const own = rest.includes("--") ? rest.slice(0, rest.indexOf("--")) : rest;
  if (own.includes("--help") || own.includes("-h")) {
    output.out(helpOf(command));
    return 0;
  }
  try {
    return await command.run(readCall(command, rest, output));
  } catch (error) {
    if (error instanceof UsageError) {
      output.err(`fairlead ${command.name}: ${error.message}\nUsage: fairlead ${command.usage}`);
      return 2;
    }
    if (error instanceof Failure) {
      if (own.includes("--json")) output.out(JSON.stringify({ ok: false, error: error.message }));
      output.err(`fairlead ${command.name}: ${error.message}`);
      return 1;
    }
    throw error;
  }
}

/** The process's words in, its output and exit code out. */
export async function runProcess(main: (argv: readonly string[], output: Output) => Promise<number>): Promise<void> {
  process.stdout.on("error", (e: NodeJS.ErrnoException) => {
    if (e.code === "EPIPE") process.exit(0); // `fairlead ... | head`
    throw e;
  });
  process.exitCode = await main(process.argv.slice(2), {
    out: (line) => void process.stdout.write(`${line}\n`),
    err: (line) => void process.stderr.write(`${line}\n`),
    colour: process.stdout.isTTY && process.env.NO_COLOR === undefined,
  });
}
