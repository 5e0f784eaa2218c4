// `fairlead demo`: runs the demo and shows one screen, or one JSON document.
import { labDown, missingForLab } from "../test/lab/client.ts";
import { type DemoReport, runDemo } from "../test/lab/demo/demo.ts";
import { type Call, type Command, Failure, pairs } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { bytes, cell, duration, paint, table } from "./table.ts";

export const demo: Command = {
  name: "demo",
  usage: "demo [--keep] [--json] [--no-install] [--name NAME]",
  summary: "Pods on two nodes talk through Fairlead; shows who, how, and the proofs. Leaves nothing behind.",
  options: {
    keep: { type: "boolean", help: "leave the lab up, to look around" },
    json: { type: "boolean", help: "print one JSON document; progress goes to standard error" },
    "no-install": { type: "boolean", help: "install nothing (read by the set-up before this command)" },
    name: { type: "string", value: "NAME", help: "name of the lab (default: demo)" },
    "agent-env": {
      type: "string",
      value: "NAME=VALUE",
      multiple: true,
      help: "setting of the agents; may be repeated",
    },
  },
  run: async (call) => {
    const missing = missingForLab();
    if (missing !== undefined)
      throw new Failure(missing.replaceAll("lab up", "demo").replace("fairlead lab", "fairlead demo"));
    const started = performance.now();
    const say = (line: string): void =>
      call.output.err(`${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s  ${line}`);
    const name = call.text("name") ?? "demo";
    let owned = false;
    const own = (): void => {
      owned = true;
    };
    const done = await interruptible(
      () => runDemo({ name, keep: call.flag("keep"), agentEnv: pairs(call, "agent-env"), own }, say),
      async () => (owned ? labDown(name) : undefined),
      call.output.err,
    );
    if (!done.ok) throw new Failure(done.error);
    if (call.flag("json")) call.output.out(JSON.stringify(done.value));
    else screen(done.value, call);
    return done.value.ok ? 0 : 1;
  },
};

const short = (identity: string): string => identity.replace(/^spiffe:\/\//, "");

function screen(report: DemoReport, call: Call): void {
  const { out, colour } = call.output;
  const title = (text: string): void => out(`\n${paint(text, "bold", colour)}`);
  title("Who talks to whom");
  out(
    table(
      [
        "SOURCE",
        "DESTINATION",
        "LANE",
        "SOURCE IDENTITY",
        "DESTINATION IDENTITY",
        "CONNS",
        "REQUESTS",
        "SENT",
        "RECEIVED",
        "READY",
      ],
      report.talks.map((t) => [
        t.source,
        t.destination,
        cell(t.lane, t.lane === "plain" ? "yellow" : "green"),
        short(t.sourceIdentity) || "-",
        short(t.destinationIdentity) || "-",
        String(t.connections),
        t.lane === "http" ? String(t.requests) : "-",
        bytes(t.sent),
        bytes(t.received),
        t.lane === "http" ? "-" : duration(t.medianMs),
      ]),
      colour,
    ),
  );
  title("Refused");
  out(
    table(
      ["SOURCE", "DESTINATION", "POLICY", "REASON", "THE PROGRAM SAID"],
      report.denied.map((d) => [d.source, d.destination, d.policy || "-", d.reason || "-", d.said]),
      colour,
    ),
  );
  title("Proofs");
  for (const p of report.proofs)
    out(
      `${paint(p.ok ? "ok  " : "FAIL", p.ok ? "green" : "red", colour)}  ${paint(p.name, "bold", colour)}: ${p.text}`,
    );
  const failed = report.proofs.filter((p) => !p.ok).length;
  out(
    `\n${failed === 0 ? "All proofs held" : `${failed} of ${report.proofs.length} proofs failed`}, ${report.seconds} s${report.interception === "" ? "" : `, interception by ${report.interception}`}.`,
  );
  if (report.kept)
    out(
      `The lab is still up: fairlead lab status --name ${report.lab}; fairlead lab down --name ${report.lab} removes it.`,
    );
}
