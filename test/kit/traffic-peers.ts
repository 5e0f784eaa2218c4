// Runs in a pod: holds one connection to each of many hosts and says when they end. Lines: "open HOST... PORT" -> {open}, "ended" waits
// up to 10 s until all have ended -> {open, lastMs (Unix ms of the last end)}, "quit".
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const open = new Set<Socket>();
let lastMs = 0;
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

function hold(host: string, port: number): Promise<void> {
  const socket = connect({ host, port });
  const gone = (): void => {
    if (open.delete(socket)) lastMs = Date.now();
    socket.destroy();
  };
  return new Promise((resolve) => {
    socket.on("connect", () => {
      open.add(socket);
      resolve();
    });
    socket.on("error", resolve);
    for (const event of ["end", "close", "error"]) socket.on(event, gone);
    socket.resume();
  });
}

say({ started: true });
for await (const line of createInterface({ input: process.stdin })) {
  const [word, ...rest] = line.split(" ");
  if (word === "quit") break;
  if (word === "open") {
    const port = Number(rest.pop());
    await Promise.all(rest.map((host) => hold(host, port)));
    await sleep(200); // one that is refused is reset right after the connect (DP-31)
    say({ open: open.size });
  } else {
    for (let waited = 0; open.size > 0 && waited < 10_000; waited += 20) await sleep(20);
    say({ open: open.size, lastMs });
  }
}
process.exit(0);
