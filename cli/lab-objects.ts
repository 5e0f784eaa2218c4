// `fairlead lab apply` and `lab delete`: objects of a running lab, beside its folder of manifests.
import { readFileSync } from "node:fs";
import { labAsk, labStatus } from "../test/lab/client.ts";
import { type Problem, parseManifest, problemLine } from "../test/lab/objects.ts";
import { callJson } from "../test/lab/unix-http.ts";
import { type Command, Failure, UsageError } from "./command.ts";
import { labName, withProblems } from "./find-lab.ts";
import { jsonOption as json, labOption as name, need } from "./mesh.ts";

export const apply: Command = {
  name: "lab apply",
  usage: "lab apply -f FILE [--name NAME] [--json]",
  summary:
    "Adds or replaces objects of a running lab (FILE may be - for standard input). The manifests folder is not written.",
  options: {
    name,
    file: { type: "string", short: "f", value: "FILE", help: "manifest; may be repeated", multiple: true },
    json,
  },
  run: async (call) => {
    const files = call.list("file");
    if (files.length === 0) throw new UsageError("-f FILE is missing: give the manifest to apply");
    const lab = labName(call.text("name"));
    const applied: string[] = [];
    const fileOf = new Map<string, string>();
    const problems: Problem[] = [];
    for (const file of files) {
      const done = need(await labAsk(lab, "/v1/apply", { file, manifest: readInput(file) })) as {
        readonly applied: readonly string[];
        readonly problems: readonly Problem[];
      };
      applied.push(...done.applied);
      for (const object of done.applied) fileOf.set(object, file);
      problems.push(...done.problems.map((p) => ({ ...p, file })));
      if (done.applied.length === 0 && done.problems.length === 0)
        throw new Failure(`${file}: no object with kind and metadata.name in it`);
    }
    problems.push(...(await refused(lab, applied)).map((p) => ({ ...p, file: fileOf.get(p.object) ?? p.file })));
    const bad = problems.filter((p) => p.isWarning !== true);
    if (call.flag("json")) call.output.out(JSON.stringify({ applied, problems }));
    else for (const object of applied) if (!bad.some((p) => p.object === object)) call.output.out(`${object} applied`);
    for (const p of problems) call.output.err(problemLine(p));
    return bad.length === 0 ? 0 : 1;
  },
};

/** What the controller says against these objects, once it has read them. */
async function refused(lab: string, applied: readonly string[]): Promise<readonly Problem[]> {
  const status = need(await labStatus(lab));
  if (status.controller === null) return [];
  await callJson(status.controller.adminSocket, "/v1/sync", { method: "POST" });
  const said = (await withProblems(status)).problems.filter((p) => applied.includes(p.object));
  // The line is that of the lab's copy, not of the file that was given.
  return said.map(({ line: _, ...p }) => p);
}

function readInput(file: string): string {
  try {
    return readFileSync(file === "-" ? 0 : file, "utf8");
  } catch (error) {
    throw new Failure(`-f ${file}: ${(error as Error).message}`);
  }
}

export const remove: Command = {
  name: "lab delete",
  usage: "lab delete (-f FILE | KIND NAMESPACE/NAME) [--name NAME] [--json]",
  summary: "Removes objects from a running lab. The manifests folder is not written.",
  options: {
    name,
    file: { type: "string", short: "f", value: "FILE", help: "manifest that names the objects" },
    json,
  },
  run: async (call) => {
    const file = call.text("file");
    const objects = file === undefined ? [objectOfWords(call.words)] : objectsOfFile(readInput(file), file);
    const lab = labName(call.text("name"));
    for (const object of objects) {
      need(await labAsk(lab, "/v1/delete", object));
      if (!call.flag("json"))
        call.output.out(
          `${object.kind} ${object.namespace === "" ? "" : `${object.namespace}/`}${object.name} deleted`,
        );
    }
    if (call.flag("json")) call.output.out(JSON.stringify({ deleted: objects }));
    return 0;
  },
};

function objectOfWords(words: readonly string[]): {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
} {
  const [kind, path] = words;
  if (kind === undefined || path === undefined) throw new UsageError("give KIND NAMESPACE/NAME, or -f FILE");
  const [namespace = "", own] = path.includes("/") ? path.split("/") : ["", path];
  return { kind, namespace: kind === "Namespace" ? "" : namespace || "default", name: own ?? "" };
}

function objectsOfFile(
  text: string,
  file: string,
): readonly { readonly kind: string; readonly namespace: string; readonly name: string }[] {
  const { objects, problems } = parseManifest(text, file);
  const bad = problems[0];
  if (bad !== undefined) throw new Failure(problemLine(bad));
  return objects.map(({ kind, namespace, name: own }) => ({ kind, namespace, name: own }));
}
