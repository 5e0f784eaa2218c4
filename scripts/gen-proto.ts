// Generates agent/api/*.gen.ts from agent/api/*.proto with protoc and ts-proto. `--out DIR` writes elsewhere (the test compares).
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const api = join(root, "agent/api");
// enumsAsLiterals, importSuffix: what type stripping can run; esModuleInterop: @grpc/grpc-js is CommonJS.
const options = [
  "env=node",
  "esModuleInterop=true",
  "enumsAsLiterals=true",
  "fileSuffix=.gen",
  "importSuffix=.ts",
  "oneof=unions-value",
  "outputJsonMethods=false",
  "outputPartialMethods=true",
  "outputServices=grpc-js",
  "useExactTypes=false",
];

/** Writes one `<name>.gen.ts` per proto file into `out` and returns their paths. */
export function generate(out: string): readonly string[] {
  mkdirSync(out, { recursive: true });
  const protos = readdirSync(api)
    .filter((name) => name.endsWith(".proto"))
    .sort();
  try {
    execFileSync(
      "protoc",
      [
        `--plugin=${join(root, "node_modules/.bin/protoc-gen-ts_proto")}`,
        `--ts_proto_out=${out}`,
        `--ts_proto_opt=${options.join(",")}`,
        `-I${api}`,
        ...protos,
      ],
      {
        stdio: ["ignore", "ignore", "pipe"],
        env: { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH ?? ""}` },
      },
    );
  } catch (error) {
    const { code, stderr } = error as NodeJS.ErrnoException & { stderr?: Buffer };
    if (code === "ENOENT") throw new Error("protoc is missing; install it with: apt-get install -y protobuf-compiler");
    throw new Error(`protoc failed: ${stderr?.toString().trim()}`);
  }
  return protos.map((name) => {
    const path = join(out, name.replace(/[.]proto$/, ".gen.ts"));
    // Which protoc was at hand must not show in the output.
    const text = readFileSync(path, "utf8").replace(/^\/\/ {3}protoc {2,}.*\n/m, "");
    writeFileSync(path, text);
    return path;
  });
}

if (import.meta.main) {
  const at = process.argv.indexOf("--out");
  for (const path of generate(at < 0 ? api : (process.argv[at + 1] ?? api))) console.log(path);
}
