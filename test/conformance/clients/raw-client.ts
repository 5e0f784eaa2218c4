// Sends raw requests of the corpus to HOST:80, one connection each; behind each, asks the recorder at port 90 what reached the server. A line of
// JSON for each: name, answer, what arrived. `raw-client HOST1` speaks HTTP/1.1.
import { connect } from "node:net";
import { rawCases } from "../corpus.ts";

const [host = ""] = process.argv.slice(2);

/** All that comes back until `enough` answers, or the end. */
function converse(port: number, bytes: Buffer, isEnough: (text: string) => boolean): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    let text = "";
    const done = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(text);
    };
    const timer = setTimeout(() => {
      text += "\n(no end within 15 s)";
      done();
    }, 15_000);
    socket.on("error", done);
    socket.on("close", done);
    socket.on("data", (data) => {
      text += data.toString("latin1");
      if (isEnough(text)) done();
    });
    socket.write(bytes);
  });
}
const answers = (text: string): number => (text.match(/HTTP\/1\.[01] \d/g) ?? []).length;

for (const { name, bytes, verdict } of rawCases) {
  const enough = verdict.kind === "refuse" ? 99 : verdict.targets.length;
  const isRefused = (text: string): boolean => /^HTTP\/1\.[01] [45]\d\d [\s\S]*\r\n\r\n/.test(text) && enough === 99;
  const answer = await converse(80, Buffer.from(bytes, "latin1"), (text) => isRefused(text) || answers(text) >= enough);
  const arrived = await converse(90, Buffer.from("take\n"), (text) => text.endsWith("\n"));
  console.log(JSON.stringify({ name, answer, arrived: JSON.parse(arrived) }));
}
process.exit(0);
