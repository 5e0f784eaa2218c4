// Compiles the BPF programs into bpf/prebuilt/ so that the same sources and compiler give the same bytes on any machine.
// Objects are for the BPF machine, not for a CPU: nothing here reads traced registers, so one set serves x86-64 and arm64.
// `--out DIR` writes elsewhere (the test compares).
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

function run(tool, args) {
  try {
    execFileSync(tool, args, { cwd: here, stdio: ["ignore", "inherit", "pipe"] });
  } catch (error) {
    if (error.code === "ENOENT")
      throw new Error(`${tool} is missing; install it with: apt-get install -y clang-16 llvm-16 libbpf-dev`);
    throw new Error(`${tool} ${args.at(-1)} failed:\n${error.stderr}`);
  }
}

/** Compiles one source of this folder to `object`. Paths of this machine are kept out of the debug information. */
export function compile(source, object) {
  const flags = ["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"];
  const paths = [
    "-I.",
    "-isystem",
    existsSync("/usr/include/bpf") ? "/usr/include" : "/usr/local/include",
    `-ffile-prefix-map=${here}=.`,
    "-fdebug-compilation-dir=.",
  ];
  run("clang-16", [...flags, ...paths, "-c", source, "-o", object]);
  // DWARF is for people; BTF stays, and it is what the loader reads.
  run("llvm-strip-16", ["-g", object]);
}

/** Builds every program into `out` and returns the paths. */
export function build(out) {
  mkdirSync(out, { recursive: true });
  return readdirSync(here)
    .filter((name) => name.endsWith(".bpf.c"))
    .sort()
    .map((name) => {
      const object = join(out, name.replace(/[.]c$/, ".o"));
      compile(name, object);
      return object;
    });
}

if (import.meta.main) {
  const at = process.argv.indexOf("--out");
  for (const path of build(at < 0 ? join(here, "prebuilt") : (process.argv[at + 1] ?? ""))) console.log(path);
}
