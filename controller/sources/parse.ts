// Text of one manifest file -> typed objects and problems with their lines. Never throws, whatever the text.
import { type Document, isCollection, isMap, isNode, isSeq, LineCounter, parseAllDocuments } from "yaml";
import { messageOf } from "../../agent/base/log.ts";
import { clusterScopedIgnored, ignoredKinds, kinds } from "./kinds.ts";
import { nearest, type Path, type Report, showPath } from "./schema.ts";
import type { Ignored, MeshObject, ObjectRef, Origin, Problem } from "./types.ts";

export interface ParsedFile {
  readonly objects: readonly { readonly object: MeshObject; readonly origin: Origin }[];
  readonly problems: readonly Problem[];
  readonly ignored: readonly Ignored[];
  /** A document could not be read at all, so objects may be missing that are still meant. */
  readonly isTorn: boolean;
}

const maxBytes = 4_194_304;
const maxAliases = 100;

/** Reads YAML (several documents) or JSON, with Lists taken apart. */
export function parseManifests(text: string, file: string): ParsedFile {
  const out = {
    objects: [] as { object: MeshObject; origin: Origin }[],
    problems: [] as Problem[],
    ignored: [] as Ignored[],
    isTorn: false,
  };
  const fault = (line: number, message: string, fix: string): void => {
    out.isTorn = true;
    out.problems.push({ file, line, object: undefined, field: "", message, fix });
  };
  if (text.length > maxBytes) {
    fault(1, `is ${text.length} bytes long, over ${maxBytes}`, "split it into several files");
    return out;
  }
  for (const part of splitDocuments(text)) readPart(part.text, part.line - 1, file, out, fault);
  return out;
}

/** Cut at "---" lines before anything is parsed, as kubectl does, so that a stray quote spoils its own document only. */
function splitDocuments(text: string): readonly { readonly text: string; readonly line: number }[] {
  const parts: { text: string; line: number }[] = [];
  let from = 1;
  let current: string[] = [];
  const lines = text.split("\n");
  for (const [i, line] of lines.entries()) {
    if (/^---(\s|$)/.test(line)) {
      parts.push({ text: current.join("\n"), line: from });
      from = i + 1;
      // What stands behind the dashes belongs to the document.
      current = [`   ${line.slice(3)}`];
    } else {
      current.push(line);
    }
  }
  parts.push({ text: current.join("\n"), line: from });
  return parts.filter((part) => part.text.split("\n").some((line) => !/^\s*([#%].*)?$/.test(line)));
}

type Fault = (line: number, message: string, fix: string) => void;

function readPart(text: string, before: number, file: string, out: Out, fault: Fault): void {
  const lines = new LineCounter();
  let documents: readonly Document[];
  try {
    documents = parseAllDocuments(text, {
      lineCounter: lines,
      uniqueKeys: true,
      logLevel: "silent",
    }) as readonly Document[];
  } catch (error) {
    fault(before + 1, `cannot be parsed: ${messageOf(error)}`, "correct the YAML or JSON");
    return;
  }
  const lineAt = (document: Document, path: Path): number => {
    for (let depth = path.length; depth >= 0; depth--) {
      const node: unknown = depth === 0 ? document.contents : document.getIn(path.slice(0, depth), true);
      if (isNode(node) && node.range) return before + lines.linePos(node.range[0]).line;
    }
    return before + 1;
  };
  for (const document of documents) {
    const [first] = document.errors;
    if (first !== undefined) {
      const line = before + (first.linePos?.[0].line ?? 1);
      fault(
        line,
        `cannot be parsed: ${(first.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:$/, "")}`,
        "correct the YAML or JSON at this line",
      );
      continue;
    }
    if (document.contents === null) continue;
    if (isTooDeep(document.contents, 64)) {
      fault(before + 1, "is nested more than 64 levels deep", "flatten it");
      continue;
    }
    let value: unknown;
    try {
      value = document.toJS({ maxAliasCount: maxAliases });
    } catch (error) {
      fault(before + 1, `cannot be expanded: ${messageOf(error)}`, "use fewer aliases");
      continue;
    }
    readDocument(value, [], (path) => lineAt(document, path), file, out);
  }
}

function isTooDeep(node: unknown, left: number): boolean {
  if (left === 0) return true;
  if (isMap(node)) return node.items.some((pair) => isTooDeep(pair.value, left - 1));
  return isSeq(node) && isCollection(node) && node.items.some((item) => isTooDeep(item, left - 1));
}

interface Out {
  readonly objects: { object: MeshObject; origin: Origin }[];
  readonly problems: Problem[];
  readonly ignored: Ignored[];
  isTorn: boolean;
}

function readDocument(value: unknown, at: Path, lineAt: (path: Path) => number, file: string, out: Out): void {
  const fields = (typeof value === "object" && value !== null && !Array.isArray(value) ? value : {}) as Record<
    string,
    unknown
  >;
  const { kind, apiVersion } = fields;
  const ref = looseRef(fields);
  const problem = (path: Path, message: string, fix: string): void => {
    out.problems.push({ file, line: lineAt(path), object: ref, field: showPath(path.slice(at.length)), message, fix });
  };
  if (typeof kind === "string" && kind.endsWith("List") && Array.isArray(fields.items)) {
    fields.items.forEach((item, i) => void readDocument(item, [...at, "items", i], lineAt, file, out));
    return;
  }
  if (typeof kind !== "string" || typeof apiVersion !== "string") {
    const missing = typeof kind !== "string" ? "kind" : "apiVersion";
    problem([...at, missing], "is missing", "every object needs apiVersion and kind");
    if (ref === undefined) out.isTorn = true;
    return;
  }
  const known = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (known === undefined) {
    if (ignoredKinds.has(kind) && ref !== undefined) {
      out.ignored.push({ object: ref, file, line: lineAt(at), note: `${kind} objects change nothing in the mesh` });
      return;
    }
    const near = nearest(kind, Object.keys(kinds));
    problem(
      [...at, "kind"],
      `"${kind.slice(0, 60)}" is not a known kind`,
      near === undefined
        ? `remove the object, or use one of ${Object.keys(kinds).join(", ")}`
        : `did you mean "${near}"?`,
    );
    return;
  }
  if (!known.apiVersions.includes(apiVersion)) {
    problem(
      [...at, "apiVersion"],
      `"${apiVersion.slice(0, 60)}" is not a version of ${kind}`,
      `use ${known.apiVersions[0]}`,
    );
    return;
  }
  let isBad = false;
  const report: Report = {
    problem(path, message, fix) {
      isBad = true;
      problem(path, message, fix);
    },
  };
  const object = known.read(value, at, report);
  if (isBad) return;
  const { namespace } = object.metadata;
  if (!known.isNamespaced && namespace !== "") {
    problem([...at, "metadata", "namespace"], `a ${kind} has no namespace`, "remove the field");
    return;
  }
  const inNamespace = known.isNamespaced ? namespace || "default" : "";
  out.objects.push({
    object: { ...object, metadata: { ...object.metadata, namespace: inNamespace } } as MeshObject,
    origin: { file, line: lineAt(at) },
  });
}

/** Kind, namespace and name as far as they can be told of an object that may be wrong. */
function looseRef(fields: Record<string, unknown>): ObjectRef | undefined {
  const metadata = fields.metadata as { readonly name?: unknown; readonly namespace?: unknown } | null | undefined;
  if (typeof metadata !== "object" || metadata === null) return undefined;
  const { name, namespace } = metadata;
  if (typeof fields.kind !== "string" || typeof name !== "string") return undefined;
  const isNamespaced = kinds[fields.kind]?.isNamespaced ?? !clusterScopedIgnored.has(fields.kind);
  return { kind: fields.kind, namespace: isNamespaced ? String(namespace ?? "default") : "", name };
}
