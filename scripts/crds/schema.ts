// Words that the schemas of our CRDs are made of (apiextensions.k8s.io/v1, structural): bounds, CEL rules with messages that say what to do.

export type Schema = Readonly<Record<string, unknown>>;
export interface Rule {
  /** CEL; `self` is the value (Kubernetes, CRD validation rules). */
  readonly rule: string;
  readonly message: string;
  /** Field that the message is shown at: ".timeout". */
  readonly fieldPath?: string;
  readonly reason?: "FieldValueInvalid" | "FieldValueForbidden" | "FieldValueRequired" | "FieldValueDuplicate";
}

const withRules = (schema: Schema, rules: readonly Rule[]): Schema =>
  rules.length === 0 ? schema : { ...schema, "x-kubernetes-validations": rules };
const withDefault = (schema: Schema, value: unknown): Schema =>
  value === undefined ? schema : { ...schema, default: value };
const described = (description: string, schema: Schema): Schema => ({ description, ...schema });

export const flag = (description: string, fallback?: boolean): Schema =>
  described(description, withDefault({ type: "boolean" }, fallback));
export const integer = (description: string, minimum: number, maximum: number, fallback?: number): Schema =>
  described(
    description,
    withDefault({ type: "integer", ...(maximum < 2 ** 31 ? { format: "int32" } : {}), minimum, maximum }, fallback),
  );
export const number = (description: string, minimum: number, maximum: number, fallback?: number): Schema =>
  described(
    description,
    withRules(
      withDefault({ type: "number", minimum, maximum }, fallback),
      // Whole values are compared with the whole part of the bound alone.
      Number.isInteger(minimum) ? [] : [{ rule: `self >= ${minimum}`, message: `use a number from ${minimum}` }],
    ),
  );
export const choice = (description: string, values: readonly string[], fallback?: string): Schema =>
  described(description, withDefault({ type: "string", enum: values }, fallback));
export const string = (
  description: string,
  maxLength: number,
  rules: readonly Rule[] = [],
  fallback?: string,
): Schema => described(description, withRules(withDefault({ type: "string", maxLength }, fallback), rules));

/** Readers of the controller take these (controller/sources/http-schema.ts). */
const durationPattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/** CEL: whether the text at `path` can be given to duration(): another rule says what is wrong if not. */
export const isDuration = (path: string): string => `${path}.matches('${durationPattern}')`;
export const duration = (description: string, min: string, max: string, fallback?: string): Schema =>
  string(
    description,
    28,
    [
      { rule: isDuration("self"), message: 'is not a duration: write it as "250ms", "5s", "1m30s" or "2h"' },
      {
        rule: `!${isDuration("self")} || (duration(self) >= duration('${min}') && duration(self) <= duration('${max}'))`,
        message: `use a duration from ${min} to ${max}`,
      },
    ],
    fallback,
  );
/** CEL: `less` is at most `more`, where both are there. Each is a path from `self`; the message is shown at `less`. */
export const notAbove = (less: string, more: string, also = ""): Rule => ({
  rule: [
    ...missing(less),
    ...missing(more),
    `!${isDuration(`self.${less}`)}`,
    `!${isDuration(`self.${more}`)}`,
    ...(also === "" ? [] : [also]),
    `duration(self.${less}) <= duration(self.${more})`,
  ].join(" || "),
  message: `is more than ${more}: lower it or raise ${more}`,
  fieldPath: `.${less}`,
});
/** "a.b" -> ["!has(self.a)", "!has(self.a.b)"] */
function missing(path: string): readonly string[] {
  const parts = path.split(".");
  return parts.map((_, i) => `!has(self.${parts.slice(0, i + 1).join(".")})`);
}

/** A Kubernetes name; with `isOptional` also "". */
export const objectName = (description: string, isOptional = false): Schema =>
  string(description, 253, [
    {
      rule: `${isOptional ? "self == '' || " : ""}(self.matches(r'^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$') && !self.contains('..'))`,
      message: "use lower-case letters, digits, dashes and dots",
    },
  ]);
/** Text that a head may carry: nothing that would end a line or smuggle one in. */
export const fieldText = (description: string, maxLength: number, rules: readonly Rule[] = []): Schema =>
  string(description, maxLength, [
    {
      rule: String.raw`self.matches(r'^[\t\x20-\x7e\x{80}-\x{ff}]*$')`,
      message: "has a character that no header may carry: remove control characters and what is not Latin-1",
    },
    ...rules,
  ]);
export const tokenRule: Rule = {
  rule: 'self.matches(r"^[!#$%&\'*+.^_`|~0-9A-Za-z-]{1,256}$")',
  message: "is not a name that HTTP allows: use letters, digits and dashes",
};
export const headerName = (description: string): Schema => string(description, 256, [tokenRule]);

export const list = (description: string, maxItems: number, items: Schema, rest: Schema = {}): Schema =>
  described(description, { type: "array", maxItems, "x-kubernetes-list-type": "atomic", items, ...rest });
export const object = (
  description: string,
  properties: Readonly<Record<string, Schema>>,
  rest: { readonly required?: readonly string[]; readonly rules?: readonly Rule[] } = {},
): Schema =>
  described(
    description,
    withRules(
      { type: "object", ...(rest.required === undefined ? {} : { required: rest.required }), properties },
      rest.rules ?? [],
    ),
  );

/** metav1.Condition as a list of which several writers each hold their types. */
export const conditions: Schema = described("What is known about the object, one entry for each type.", {
  type: "array",
  maxItems: 16,
  "x-kubernetes-list-type": "map",
  "x-kubernetes-list-map-keys": ["type"],
  items: object(
    "One condition (metav1.Condition).",
    {
      type: string("What the condition is about.", 316),
      status: choice("Whether it is so.", ["True", "False", "Unknown"]),
      reason: string("Why, as one word for programs.", 1024),
      message: string("Why, in words, with what to do.", 32_768),
      lastTransitionTime: described("When the status changed last.", { type: "string", format: "date-time" }),
      observedGeneration: described("Generation of the object that this was found of.", {
        type: "integer",
        format: "int64",
        minimum: 0,
      }),
    },
    { required: ["type", "status", "reason", "message", "lastTransitionTime"] },
  ),
});
