// A watch of the API server from its bytes to events: cut anywhere the same, never an exception, nothing taken that has no name and version.
import assert from "node:assert/strict";
import { LineReader } from "../../agent/kubernetes/lines.ts";
import { readEvent, readPage } from "../../agent/kubernetes/wire.ts";
import { type ReadObject, readObject, resources } from "../../controller/sources/kubernetes/resources.ts";
import { type FuzzTarget, shape } from "./target.ts";

const maxLine = 2_048;

function cut(bytes: Buffer, size: number): { readonly lines: readonly string[]; readonly end: string } {
  const lines: string[] = [];
  const reader = new LineReader(maxLine);
  for (let at = 0; at < bytes.length; at += size) {
    const end = reader.push(bytes.subarray(at, at + size), (line) => lines.push(line) > 0);
    assert.ok(reader.pendingBytes <= maxLine);
    if (end !== "more") return { lines, end };
  }
  return { lines, end: `more ${reader.pendingBytes}` };
}

/** First byte: size of the pieces. Second: which kind the objects are read as. */
function watch(input: Buffer): string {
  const resource = resources[(input[1] ?? 0) % resources.length];
  assert.ok(resource !== undefined);
  const bytes = input.subarray(2);
  const whole = cut(bytes, Math.max(1, bytes.length));
  assert.deepEqual(cut(bytes, (input[0] ?? 0) + 1), whole);
  const seen = whole.lines.map((line) => {
    const event = readEvent(line);
    if ("fault" in event) {
      assert.ok(event.fault.message.length <= 300);
      return event.kind === "error" ? `error ${event.fault.kind}` : shape(event.fault.message);
    }
    assert.notEqual(event.version, "");
    if (event.kind === "bookmark") return "bookmark";
    assert.notEqual(event.object.metadata.name, "");
    const read = readObject(resource, event.object);
    check(read);
    readPage({ metadata: event.object.metadata, items: [event.object] });
    return `${event.kind} ${read.problems.map((p) => `${p.field.replace(/\d+/g, "n")} ${shape(p.message)}`).slice(0, 2)}`;
  });
  return `${whole.end.split(" ")[0]} ${[...new Set(seen)].sort().slice(0, 3).join()}`;
}

function check({ object, problems }: ReadObject): void {
  assert.equal(object === undefined, problems.length > 0, "taken, or told why not");
  for (const problem of problems)
    assert.ok(problem.object !== undefined && problem.message !== "" && problem.fix !== "");
  if (object !== undefined) JSON.stringify(object);
}

export const watchTargets: readonly FuzzTarget[] = [{ name: "kube-watch", maxBytes: 8_192, run: watch }];
