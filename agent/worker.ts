// Entry of a data thread: takes the sockets that native hands over on this thread's own channel and carries them. The HTTP lane
// grows here; until it does, a handed socket is carried to its destination byte for byte.
import { parentPort, workerData } from "node:worker_threads";
import { systemClock } from "./base/clock.ts";
import { carry } from "./forward/carry.ts";
import { LaneSockets } from "./forward/dial.ts";
import { adoptChannel } from "./native.ts";
import type { DialParams } from "./native-calls.ts";
import { Replica } from "./replica.ts";
import type { FromThread, HandedSocket, ThreadStart, ToThread } from "./threads.ts";

const start = workerData as ThreadStart;
const tell = (message: FromThread): void => parentPort?.postMessage(message);
const replica = new Replica();

const channel = adoptChannel(
  start.channelFd,
  {
    question: () => null,
    records: () => {},
    event(event) {
      if (event.event === "socket") void take(event as unknown as HandedSocket);
      else if (event.event === "aborted") sockets.aborted(event.id as number);
    },
    late: (value) => sockets.late(value),
    closed(reason) {
      tell({ say: "failed", reason });
      stop();
    },
  },
  systemClock,
);
const sockets = new LaneSockets(channel);

async function take(handed: HandedSocket): Promise<void> {
  const { fd, id, planId, verdictId, tunnel } = handed;
  const client = sockets.adopt({ fd, id, paired: tunnel !== "plain" });
  const early = new Promise<Error>((resolve) => client.once("error", resolve));
  const upstream = await sockets.dial(onward(handed));
  if (!upstream.ok) {
    client.reset();
    tell({ say: "ended", handed: { planId, verdictId, sent: 0, received: 0, error: upstream.error.code } });
    return;
  }
  if (client.destroyed) upstream.value.on("error", () => {}).reset();
  const { sent, received, error } = client.destroyed
    ? { sent: 0, received: 0, error: (await early).message }
    : await carry(client, upstream.value);
  tell({ say: "ended", handed: { planId, verdictId, sent, received, ...(error === undefined ? {} : { error }) } });
}

/** Where it would have gone without this thread. */
function onward({ pod, original, source, upstream, direction, planId, service }: HandedSocket): DialParams {
  const at = { pod, source, planId };
  if (direction === "inbound") return { ...at, endpoint: { ...original, mode: "local", pod } };
  return {
    ...at,
    endpoint: upstream ?? { ...original, mode: "plain" },
    destination: original,
    ...(service === undefined || service === null ? {} : { service }),
    ...(upstream?.index === undefined ? {} : { index: upstream.index }),
  };
}

/** The channel goes first: what ends after it did not end in order, and native resets its other side. */
function stop(): void {
  channel.close();
  sockets.close();
  parentPort?.close();
}

parentPort?.on("message", (message: ToThread) => {
  if (message.say === "stop") stop();
  else if (message.say === "ping") tell({ say: "pong" });
  else if (message.say === "replicated") tell({ say: "ready" });
  else replica.take(message);
});
