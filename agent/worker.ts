// Entry of a data thread: takes the sockets that native hands over on this thread's own channel and carries them. The HTTP lane
// grows here; until it does, a handed socket is carried to its destination byte for byte.
import { Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { systemClock } from "./base/clock.ts";
import { carry } from "./forward/carry.ts";
import { adoptChannel } from "./native.ts";
import { Replica } from "./replica.ts";
import type { FromThread, HandedSocket, ThreadStart, ToThread } from "./threads.ts";

const start = workerData as ThreadStart;
const tell = (message: FromThread): void => parentPort?.postMessage(message);
const open = new Set<Socket>();
const replica = new Replica();

const channel = adoptChannel(
  start.channelFd,
  {
    question: () => null,
    records: () => {},
    event(event) {
      if (event.event === "socket") void take(event as unknown as HandedSocket);
    },
    closed(reason) {
      tell({ say: "failed", reason });
      stop();
    },
  },
  systemClock,
);

async function take(handed: HandedSocket): Promise<void> {
  // Both directions stay open until each side has ended its own: half-close passes through (INT-9).
  const client = new Socket({ fd: handed.fd, readable: true, writable: true, allowHalfOpen: true });
  open.add(client);
  const { sent, received, error } = await carry(client, handed.upstream ?? handed.original);
  open.delete(client);
  const { planId, verdictId } = handed;
  tell({ say: "ended", handed: { planId, verdictId, sent, received, ...(error === undefined ? {} : { error }) } });
}

function stop(): void {
  for (const socket of open) socket.destroy();
  channel.close();
  parentPort?.close();
}

parentPort?.on("message", (message: ToThread) => {
  if (message.say === "stop") stop();
  else if (message.say === "ping") tell({ say: "pong" });
  else if (message.say === "replicated") tell({ say: "ready" });
  else replica.take(message);
});
