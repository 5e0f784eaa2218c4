// curl (HTTP/1.1 and 2) and nghttp as clients of the plan: one process for each visit. Called with curl1|curl2|nghttp BASE PLAN.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bodyOf, parsePlan, sumOf, type Visit } from "./plan.ts";

const [which = "", base = "", plan = ""] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "command-client-"));
const sent = join(folder, "sent");
const got = join(folder, "got");
const head = join(folder, "head");
const run = (command: readonly string[], input?: Buffer) => {
  const done = spawnSync(command[0] ?? "", command.slice(1), {
    maxBuffer: 1e8,
    timeout: 60_000,
    ...(input === undefined ? {} : { input }),
  });
  return { code: done.status ?? -1, stdout: done.stdout, stderr: done.stderr.toString() };
};

function curl(visit: Visit): readonly unknown[] {
  const { bytes, told } = bodyOf(visit);
  writeFileSync(sent, bytes);
  writeFileSync(got, "");
  const version = which === "curl1" ? "--http1.1" : "--http2-prior-knowledge";
  const field = visit.field === "" ? [] : ["-H", visit.field.replace(":", ": ")];
  const body = bytes.length === 0 ? [] : told ? ["--data-binary", `@${sent}`, "-H", "Content-Type:"] : ["-T", "-"];
  const method = visit.method === "HEAD" ? ["--head"] : ["-X", visit.method];
  const common = ["curl", "-sS", "-m", "50", "--path-as-is", version, "-D", head, "-w", "%{http_code}"];
  const output = ["-o", visit.method === "HEAD" ? "/dev/null" : got];
  const done = run([...common, ...output, ...method, ...field, ...body, base + visit.path], told ? undefined : bytes);
  if (done.code !== 0) return ["error", `curl ${done.code} ${done.stderr.replaceAll("\n", " ")}`];
  const back = [...readFileSync(head, "utf8").matchAll(/^x-back: (.*?)\r?$/gim)].at(-1)?.[1] ?? "";
  const answer = readFileSync(got);
  return [done.stdout.toString(), answer.length, sumOf(answer), back];
}

function nghttp(visit: Visit): readonly unknown[] {
  const { bytes } = bodyOf(visit);
  if (visit.field.startsWith("expect:")) return ["cannot", "nghttp has no 100-continue of its own"];
  if (visit.body.startsWith("c")) return ["cannot", "nghttp always tells the length"];
  writeFileSync(sent, bytes);
  const body = bytes.length === 0 ? [] : ["-d", sent];
  const field = visit.field === "" ? [] : ["-H", visit.field.replace(":", ": ")];
  const options = ["-t", "50", "-H", `:method: ${visit.method}`, ...field, ...body, base + visit.path];
  // Once for the fields, once for the body alone: nghttp prints either both mixed or one.
  const told = run(["nghttp", "-nv", ...options]);
  const content = run(["nghttp", ...options]);
  const said = told.stdout.toString();
  const last = (name: string): string =>
    [...said.matchAll(new RegExp(`recv \\(stream_id=\\d+\\) ${name}: (.*)`, "g"))].at(-1)?.[1] ?? "";
  const reset = /recv RST_STREAM[\s\S]*?error_code=(?!NO_ERROR)(\w+)/.exec(said)?.[1];
  if (reset !== undefined || told.code !== 0 || last(":status") === "")
    return ["error", `nghttp ${told.code} ${reset ?? ""} ${told.stderr.replaceAll("\n", " ")}`];
  return [last(":status"), content.stdout.length, sumOf(content.stdout), last("x-back")];
}

for (const visit of parsePlan(plan))
  console.log([visit.name, ...(which === "nghttp" ? nghttp : curl)(visit)].join("\t"));
