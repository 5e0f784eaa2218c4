// Reads Kubernetes manifests as far as the lab itself needs them: kind, name, labels and the pods' specs. Policies are the controller's to judge.
import { parseAllDocuments } from "yaml";

/** A manifest as plain data; `fields` is the whole document. */
export interface KubeObject {
  readonly kind: string;
  readonly apiVersion: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly fields: Fields;
  /** Path relative to the manifests folder. */
  readonly file: string;
}

/** A mapping of unknown shape, as it comes out of YAML. */
export type Fields = Readonly<Record<string, unknown>>;

/** Something the lab could not use: always where, what, and what to do. */
export interface Problem {
  readonly file: string;
  /** Where it is known. */
  readonly line?: number;
  /** "" where the document could not be read far enough to tell. */
  readonly object: string;
  readonly field: string;
  readonly message: string;
  readonly fix: string;
  /** The object is in force all the same. */
  readonly isWarning?: boolean;
}

/** One line: where, which object, which field, what, and what to do. */
export function problemLine(p: Problem): string {
  const where = p.line === undefined ? p.file : `${p.file}:${p.line}`;
  const what = [where, p.object, p.field, p.message].filter((part) => part !== "").join(": ");
  return `${p.isWarning === true ? "warning: " : ""}${what}${p.fix === "" ? "" : `; ${p.fix}`}`;
}

export const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);
export const fieldsAt = (value: unknown): Fields => (isFields(value) ? value : {});
export const listAt = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** A map of strings; numbers and booleans (an unquoted label value) become text, as users expect of labels. */
export function stringsAt(value: unknown): Record<string, string> {
  const out: Record<string, string> = {};
  for (const [key, item] of Object.entries(fieldsAt(value)))
    if (item !== null && typeof item !== "object") out[key] = String(item);
  return out;
}

const clusterScoped = new Set([
  "Namespace",
  "Node",
  "GatewayClass",
  "PersistentVolume",
  "ClusterRole",
  "ClusterRoleBinding",
  "CustomResourceDefinition",
]);

/** "Kind/namespace/name", the identity of an object in the lab; cluster-scoped kinds have no namespace. */
export const objectKey = (o: Pick<KubeObject, "kind" | "namespace" | "name">): string =>
  `${o.kind}/${o.namespace}/${o.name}`;
export const displayName = (o: Pick<KubeObject, "kind" | "namespace" | "name">): string =>
  o.namespace === "" ? `${o.kind} ${o.name}` : `${o.kind} ${o.namespace}/${o.name}`;

/** One document, or undefined if it has no kind or name (the controller reports those with their place). */
export function objectOf(document: unknown, file: string): KubeObject | undefined {
  if (!isFields(document)) return undefined;
  const metadata = fieldsAt(document.metadata);
  const { kind, apiVersion } = document;
  const name = metadata.name;
  if (typeof kind !== "string" || typeof name !== "string") return undefined;
  const namespace = metadata.namespace;
  return {
    kind,
    apiVersion: typeof apiVersion === "string" ? apiVersion : "",
    namespace: clusterScoped.has(kind) ? "" : typeof namespace === "string" && namespace !== "" ? namespace : "default",
    name,
    labels: stringsAt(metadata.labels),
    annotations: stringsAt(metadata.annotations),
    fields: document,
    file,
  };
}

export interface ParsedFile {
  readonly objects: readonly KubeObject[];
  readonly problems: readonly Problem[];
}

/** All objects of one file (several YAML documents, JSON, or `kind: List`); what does not parse is a problem, the rest still counts. */
export function parseManifest(text: string, file: string): ParsedFile {
  const objects: KubeObject[] = [];
  const problems: Problem[] = [];
  for (const document of parseAllDocuments(text)) {
    const bad = document.errors[0];
    if (bad !== undefined) {
      const line = bad.linePos?.[0].line ?? 1;
      problems.push({
        file,
        line,
        object: "",
        field: "",
        message: `cannot be parsed: ${(bad.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:$/, "")}`,
        fix: "correct the YAML at that line",
      });
      continue;
    }
    const value: unknown = document.toJS();
    const items = isFields(value) && value.kind === "List" ? listAt(value.items) : [value];
    for (const item of items) {
      const object = objectOf(item, file);
      if (object !== undefined) objects.push(object);
    }
  }
  return { objects, problems };
}
