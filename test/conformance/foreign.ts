// Programs that others wrote, built or installed into build/conformance with pinned versions: Go modules, Python packages, npm packages, a
// Java file. What cannot be had is said with what is missing; nothing of theirs is in this repository.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const SOURCE = join(PROJECT_DIR, "test/conformance");
export const CACHE = join(PROJECT_DIR, "build/conformance");
/** A first build of grpc-go takes minutes on a slow machine. */
const BUILD_MS = 1_800_000;

/** Versions of what is not pinned by a file of its own (`go/go.mod`). */
const pythonPackages = {
  kosoku: "0.1.0",
  requests: "2.32.5",
  httpx: "0.28.1",
  h2: "4.3.0",
  websockets: "15.0.1",
} as const;
const npmPackages = { undici: "8.12.4", ws: "8.18.3" } as const;

async function need(command: readonly string[], missing: string): Promise<string> {
  const done = await finish(command, { timeoutMs: 60_000 }).catch(() => undefined);
  if (done?.code !== 0) throw new Error(missing);
  return (done.stdout || done.stderr).trim();
}

async function build(what: string, command: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const all = { ...(process.env as Record<string, string>), ...env };
  const done = await finish(command, { timeoutMs: BUILD_MS, env: all });
  if (done.code !== 0)
    throw new Error(`${what}: ${command.join(" ")}: ${(done.stderr || done.stdout).trim().slice(-1500)}`);
}

/** Runs `make` unless its stamp says that this was done. */
async function once(name: string, wanted: string, make: () => Promise<void>): Promise<void> {
  const stamp = join(CACHE, `${name}.stamp`);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  mkdirSync(CACHE, { recursive: true });
  await make();
  writeFileSync(stamp, wanted);
}

const read = (file: string): string => readFileSync(join(SOURCE, file), "utf8");

/** Version of a Go module as `go/go.mod` requires it. */
export const goVersion = (module: string): string =>
  new RegExp(`^\\s*(?:require )?${module.replaceAll(".", "\\.")} (v[^\\s+]+)`, "m").exec(read("go/go.mod"))?.[1] ?? "?";

const goPrograms = {
  h2spec: "github.com/summerwind/h2spec/cmd/h2spec",
  "grpc-client": "google.golang.org/grpc/interop/client",
  "grpc-server": "google.golang.org/grpc/interop/server",
  "plan-client": "./client",
  "plan-server": "./server",
} as const;

/** Path of a program built from Go. @throws Error naming what is missing */
export async function goProgram(name: keyof typeof goPrograms): Promise<string> {
  await need(["go", "version"], "Go is missing: install Go 1.25 or newer");
  const wanted = ["go/go.mod", "go/go.sum", "go/client/main.go", "go/server/main.go"].map(read).join("\n");
  const file = join(CACHE, "go", name);
  await once(`go-${name}`, wanted, () =>
    build(
      `building ${name}`,
      ["go", "build", "-C", join(SOURCE, "go"), "-mod=readonly", "-o", file, goPrograms[name]],
      {
        GOFLAGS: "-buildvcs=false",
      },
    ),
  );
  return file;
}

/** Folder of the programs of the Python environment. @throws Error naming what is missing */
export async function pythonPrograms(): Promise<string> {
  await need(
    ["python3", "-c", "import ensurepip, venv"],
    "Python 3.10 or newer with venv is missing: install python3-venv",
  );
  const folder = join(CACHE, "python");
  const packages = Object.entries(pythonPackages).map(([name, version]) => `${name}==${version}`);
  await once("python", packages.join("\n"), async () => {
    await build("making a Python environment", ["python3", "-m", "venv", "--clear", folder]);
    const pip = [join(folder, "bin/pip"), "install", "--quiet", "--disable-pip-version-check"];
    await build("installing Python packages", [...pip, ...packages]);
  });
  return join(folder, "bin");
}
export const pythonVersion = (name: keyof typeof pythonPackages): string => `${name} ${pythonPackages[name]}`;

/** Folder whose node_modules has the npm packages. @throws Error naming what is missing */
export async function npmFolder(): Promise<string> {
  await need(["npm", "--version"], "npm is missing: install Node.js");
  const folder = join(CACHE, "npm");
  const packages = Object.entries(npmPackages).map(([name, version]) => `${name}@${version}`);
  await once("npm", packages.join("\n"), async () => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "package.json"), '{"private":true}\n');
    const flags = ["--save-exact", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    await build("installing npm packages", ["npm", "install", "--prefix", folder, ...flags, ...packages]);
  });
  return folder;
}
export const npmVersion = (name: keyof typeof npmPackages): string => `${name} ${npmPackages[name]}`;

/** Folder of the compiled Java client, and Java's version. @throws Error naming what is missing */
export async function javaClient(): Promise<{ readonly folder: string; readonly version: string }> {
  const version = await need(["javac", "-version"], "javac is missing: install a JDK, 17 or newer");
  const folder = join(CACHE, "java");
  await once("java", `${version}\n${read("clients/PlanClient.java")}`, () =>
    build("compiling the Java client", ["javac", "-d", folder, join(SOURCE, "clients/PlanClient.java")]),
  );
  return { folder, version: `java.net.http of JDK ${version.replace(/^javac /, "")}` };
}

/** First line that a system's program says about its version. @throws Error naming what is missing */
export async function systemProgram(command: readonly string[], debianPackage: string): Promise<string> {
  const said = await need(command, `${command[0]} is missing: install ${debianPackage}`);
  return (said.split("\n")[0] ?? "").replace(/^nginx version: nginx\//, "nginx ").replace(/^(curl [\d.]+).*/, "$1");
}
