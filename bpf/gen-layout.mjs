// Generates agent/intercept/layout.gen.ts and native/src/kernel/layout.gen.rs from the BTF of layout.probe.c, so that C is
// the only place where a layout is written. `--out DIR` writes both files there instead (the test compares).
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "./build.mjs";
import { emitRust } from "./gen-rust.mjs";
import { emitTypeScript } from "./gen-typescript.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);

/** BTF as bpftool prints it: [{id, kind, name, ...}]. */
function btfOf(object) {
  try {
    return JSON.parse(execFileSync("bpftool", ["-j", "btf", "dump", "file", object], { maxBuffer: 1 << 26 })).types;
  } catch (error) {
    if (error.code === "ENOENT") throw new Error("bpftool is missing; install it with: apt-get install -y bpftool");
    throw error;
  }
}

/** Comment text that stands right before `what {` in the header, as one line; "" if none. */
function commentOf(source, what) {
  const before = source.slice(0, source.indexOf(`\n${what} {`) + 1);
  const match = /\/\*((?:[^*]|\*(?!\/))*)\*\/\n$/.exec(before);
  return match ? match[1].replace(/\s*\n \*\s*/g, " ").trim() : "";
}

/** Trailing comments of the members of one struct or enum: name -> text. */
function memberComments(source, what) {
  const start = source.indexOf(`\n${what} {`);
  const body = source.slice(start, source.indexOf("\n};", start));
  const found = {};
  for (const line of body.split("\n")) {
    const match = /^\s*(?:__\w+ )?(\w+)(?:\[\d+\])?(?: = [^,]+,|;)\s*\/\*\s*(.*?)\s*\*\/\s*$/.exec(line);
    if (match) found[match[1]] = match[2];
  }
  return found;
}

/** Follows typedefs, volatile and const. */
function resolve(types, id) {
  let type = types.get(id);
  while (["TYPEDEF", "CONST", "VOLATILE"].includes(type.kind)) type = types.get(type.type_id);
  return type;
}

function fieldOf(types, structName, member, comments) {
  const type = resolve(types, member.type_id);
  const base = { name: member.name, offset: member.bits_offset / 8, comment: comments[member.name] ?? "" };
  if (type.kind === "INT") return { ...base, bytes: type.size, signed: type.encoding === "SIGNED", array: false };
  if (type.kind === "ARRAY" && resolve(types, type.type_id).size === 1)
    return { ...base, bytes: type.nr_elems, signed: false, array: true };
  throw new Error(`layout.h: ${structName}.${member.name} is neither an integer nor bytes; use fixed-width fields`);
}

/** What the maps and structs are, in plain data. */
export function readLayout(object) {
  const source = readFileSync(join(here, "layout.h"), "utf8");
  const mapSource = readFileSync(join(here, "maps.h"), "utf8");
  const list = btfOf(object);
  const types = new Map(list.map((type) => [type.id, type]));
  const structs = list
    .filter((type) => type.kind === "STRUCT" && source.includes(`\nstruct ${type.name} {`))
    .map((type) => {
      const comments = memberComments(source, `struct ${type.name}`);
      const comment = commentOf(source, `struct ${type.name}`);
      const fields = type.members.map((member) => fieldOf(types, type.name, member, comments));
      return { name: type.name, size: type.size, comment, fields };
    })
    .sort((a, b) => source.indexOf(`struct ${a.name} {`) - source.indexOf(`struct ${b.name} {`));
  const enums = list
    .filter((type) => type.kind === "ENUM" && source.includes(`\nenum ${type.name} {`))
    .map((type) => {
      const comments = memberComments(source, `enum ${type.name}`);
      const prefix = `${type.name.toUpperCase()}_`;
      const values = type.values.map((value) => {
        if (!value.name.startsWith(prefix)) throw new Error(`layout.h: ${value.name} must begin with ${prefix}`);
        return { name: value.name.slice(prefix.length), value: value.val, comment: comments[value.name] ?? "" };
      });
      return { name: type.name, comment: commentOf(source, `enum ${type.name}`), values };
    })
    .sort((a, b) => source.indexOf(`enum ${a.name} {`) - source.indexOf(`enum ${b.name} {`));
  const maps = [
    ...mapSource.matchAll(
      /\/\*((?:[^*]|\*(?!\/))*)\*\/\nMAP\((\w+), (\w+), (\w+), (?:struct )?(\w+), (?:struct )?(\w+),/g,
    ),
  ].map(([, comment, name, kind, entries, key, value]) => ({
    name,
    kind,
    entries,
    key,
    value,
    frozen: comment.includes("FROZEN"),
    comment: comment.replace(/\s*\n \*\s*/g, " ").trim(),
  }));
  const bare = JSON.stringify({ structs, enums, maps }, (key, value) => (key === "comment" ? undefined : value));
  const version = createHash("sha256").update(bare).digest("hex").slice(0, 12);
  return { version, structs, enums, maps };
}

/** Writes both generated files and returns their paths. */
export function generate(typescriptPath, rustPath) {
  const scratch = mkdtempSync(join(tmpdir(), "fairlead-layout-"));
  try {
    const object = join(scratch, "layout.probe.o");
    compile("layout.probe.c", object);
    const layout = readLayout(object);
    writeFileSync(typescriptPath, emitTypeScript(layout));
    writeFileSync(rustPath, emitRust(layout));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return [typescriptPath, rustPath];
}

if (import.meta.main) {
  const at = process.argv.indexOf("--out");
  const out = at < 0 ? undefined : process.argv[at + 1];
  const typescriptPath = out ? join(out, "layout.gen.ts") : join(root, "agent/intercept/layout.gen.ts");
  const rustPath = out ? join(out, "layout.gen.rs") : join(root, "native/src/kernel/layout.gen.rs");
  for (const path of generate(typescriptPath, rustPath)) console.log(path);
}
