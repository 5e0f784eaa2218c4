// Which lab a command means, and what its controller and agents answer.
import { labNames } from "../test/lab/client.ts";
import type { LabStatus } from "../test/lab/lab-options.ts";
import { type Fields, fieldsAt, listAt, type Problem } from "../test/lab/objects.ts";
import { callJson } from "../test/lab/unix-http.ts";
import { Failure } from "./command.ts";

/** The lab that is named (by option or $FAIRLEAD_LAB), or the only one there is. */
export function labName(given: string | undefined): string {
  const chosen = given ?? process.env.FAIRLEAD_LAB;
  if (chosen !== undefined && chosen !== "") return chosen;
  const names = labNames();
  if (names.length <= 1) return names[0] ?? "lab";
  throw new Failure(`there are several labs (${names.join(", ")}): say which with --lab`);
}

/** Joins what the lab could not use with what the controller refused or warns of; one line per object. */
export async function withProblems(status: LabStatus): Promise<LabStatus> {
  if (status.controller === null || status.controller.state !== "ready") return status;
  const answer = await callJson(status.controller.adminSocket, "/v1/status", { timeoutMs: 3000 });
  if (!answer.ok) return status;
  const said = listAt(fieldsAt(answer.value).objects).map(fieldsAt).flatMap(problemsOf);
  // A file that does not parse is named by both; the controller reads documents apart, so it knows better where.
  const known = new Set(said.map((p) => `${p.file} ${p.object}`));
  return { ...status, problems: [...status.problems.filter((p) => !known.has(`${p.file} ${p.object}`)), ...said] };
}

/** What the controller's status of an object says against it: why it is refused, or what it warns of. */
export function problemsOf(object: Fields): readonly Problem[] {
  const text = (field: string): string => (typeof object[field] === "string" ? object[field] : "");
  if (object.accepted !== false && text("fix") === "") return [];
  const path = text("namespace") === "" ? text("name") : `${text("namespace")}/${text("name")}`;
  const base = { file: text("file"), object: `${text("kind")} ${path}`.trim() };
  const first: Problem = {
    ...base,
    line: Number(object.line),
    field: text("field"),
    message: text("message") || text("reason"),
    fix: text("fix"),
    ...(object.accepted === false ? {} : { isWarning: true }),
  };
  // The first of an invalid object's problems stands in the object itself.
  const further = listAt(object.problems).slice(1).map(fieldsAt);
  return [
    first,
    ...further.map(
      (p): Problem => ({
        ...base,
        line: Number(p.line),
        field: String(p.field ?? ""),
        message: String(p.message ?? ""),
        fix: String(p.fix ?? ""),
      }),
    ),
  ];
}
