// Which lab a command means, and what its controller and agents answer.
import { labNames } from "../test/lab/client.ts";
import type { LabStatus } from "../test/lab/lab-options.ts";
import { fieldsAt, listAt, type Problem } from "../test/lab/objects.ts";
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

/** Joins what the lab could not use with what the controller refused; one line per object and field. */
export async function withProblems(status: LabStatus): Promise<LabStatus> {
  if (status.controller === null || status.controller.state !== "ready") return status;
  const answer = await callJson(status.controller.adminSocket, "/v1/status", { timeoutMs: 3000 });
  if (!answer.ok) return status;
  const refused = listAt(fieldsAt(answer.value).objects)
    .map(fieldsAt)
    .filter((o) => o.accepted === false)
    .map((o): Problem => {
      const text = (field: string): string => (typeof o[field] === "string" ? o[field] : "");
      const path = text("namespace") === "" ? text("name") : `${text("namespace")}/${text("name")}`;
      return {
        file: text("file"),
        object: `${text("kind")} ${path}`.trim(),
        field: "",
        message: text("message") || text("reason"),
        fix: "",
      };
    });
  const known = new Set(status.problems.map((p) => `${p.file} ${p.object}`));
  return { ...status, problems: [...status.problems, ...refused.filter((p) => !known.has(`${p.file} ${p.object}`))] };
}
