// A CustomResourceDefinition of ours around a schema: names, status beside the spec, columns of `kubectl get`.
import { conditions, object, type Rule, type Schema } from "./schema.ts";

export interface DefinitionOptions {
  readonly kind: string;
  readonly plural: string;
  readonly shortName: string;
  readonly scope: "Namespaced" | "Cluster";
  readonly description: string;
  readonly spec: Schema;
  /** Of the whole object. */
  readonly rules?: readonly Rule[];
  /** Name and JSON path of columns before those that every kind has. */
  readonly columns: readonly (readonly [name: string, type: "string" | "boolean", jsonPath: string])[];
}

const status: Schema = object("What became of the object.", {
  conditions,
  observedGeneration: {
    description: "Generation of the spec that the conditions were found of.",
    type: "integer",
    format: "int64",
    minimum: 0,
  },
});
const condition = (type: string, field: string): string => `.status.conditions[?(@.type=="${type}")].${field}`;

export function definition(options: DefinitionOptions): object {
  const { kind, plural, shortName, scope, description, spec, rules = [], columns } = options;
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.mesh.fairlead.dev` },
    spec: {
      group: "mesh.fairlead.dev",
      scope,
      names: {
        kind,
        listKind: `${kind}List`,
        plural,
        singular: kind.toLowerCase(),
        shortNames: [shortName],
        categories: ["fairlead"],
      },
      versions: [
        {
          name: "v1alpha1",
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: [
            ...columns.map(([name, type, jsonPath]) => ({ name, type, jsonPath })),
            { name: "Accepted", type: "string", jsonPath: condition("Accepted", "status") },
            { name: "Reason", type: "string", jsonPath: condition("Accepted", "reason") },
            { name: "Enforced", type: "string", jsonPath: condition("Enforced", "status") },
            { name: "Nodes", type: "string", jsonPath: condition("Enforced", "message"), priority: 1 },
            { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
          ],
          schema: {
            openAPIV3Schema: object(
              description,
              {
                apiVersion: { description: "mesh.fairlead.dev/v1alpha1", type: "string" },
                kind: { description: kind, type: "string" },
                metadata: { type: "object" },
                spec,
                status,
              },
              { rules },
            ),
          },
        },
      ],
    },
  };
}
