// The native side of the channel (docs/native-channel.md) on a real stream socket, for tests of the TypeScript side: it answers
// every call, keeps maps, pods and SVIDs in memory, and can ask, record and tell as the library does.
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../../agent/base/clock.ts";
import { encodeFrame, FrameReader } from "../../agent/base/frames.ts";
import { NativeChannel, type NativeListener } from "../../agent/native.ts";

type Params = Readonly<Record<string, unknown>>;

export interface FakeNative {
  readonly channel: NativeChannel;
  readonly calls: { readonly method: string; readonly params: Params }[];
  readonly maps: Map<string, Map<string, string>>;
  readonly pods: Map<string, Params>;
  readonly svids: Map<string, Params>;
  readonly generation: () => number;
  /** Overrides the answer to a method: a value, or `{error}`. */
  readonly answers: Map<string, (params: Params) => unknown>;
  ask(question: object): Promise<Record<string, unknown>>;
  records(bytes: Buffer): void;
  event(event: object): void;
  /** Ends the stream as a dying library would. */
  die(): void;
  close(): Promise<void>;
}

/** Makes both ends; `listener` is the agent's. */
export async function startFakeNative(listener: NativeListener, clock: Clock): Promise<FakeNative> {
  const folder = mkdtempSync(join(tmpdir(), "fake-native-"));
  const path = join(folder, "channel.sock");
  let accepted: (socket: Socket) => void = () => {};
  const peerOf = new Promise<Socket>((resolve) => {
    accepted = resolve;
  });
  const server = createServer((socket) => accepted(socket));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const near = connect(path);
  const peer = await peerOf;
  server.close();

  const maps = new Map<string, Map<string, string>>();
  const pods = new Map<string, Params>();
  const svids = new Map<string, Params>();
  const calls: { method: string; params: Params }[] = [];
  const answers = new Map<string, (params: Params) => unknown>();
  const waiting = new Map<number, (answer: Record<string, unknown>) => void>();
  let generation = 0;
  let nextQuestion = 1;
  const map = (name: unknown): Map<string, string> => {
    const found = maps.get(String(name)) ?? new Map<string, string>();
    maps.set(String(name), found);
    return found;
  };
  const act = (method: string, params: Params): unknown => {
    const own = answers.get(method);
    if (own !== undefined) return own(params);
    switch (method) {
      case "host.probe":
        return { kernel: "test", cgroup2: "/", bpf: { ok: true }, nft: { ok: true }, capabilities: [], missing: [] };
      case "programs.load":
        return { version: "test", replaced: false, interception: "ebpf", reason: "test" };
      case "map.put":
        for (const [key, value] of params.entries as [string, string][]) map(params.map).set(key, value);
        return { count: (params.entries as unknown[]).length };
      case "map.delete":
        for (const key of params.keys as string[]) map(params.map).delete(key);
        return { count: (params.keys as unknown[]).length };
      case "map.dump":
        return { entries: [...map(params.map)] };
      case "pod.enrol":
        pods.set(String(params.pod), params);
        return { cookie: pods.size, listening: [], existing: [], ms: 1, unguarded: "" };
      case "pod.unfinished":
        return { connections: 0, sockets: 0 };
      case "pod.unenrol":
      case "pod.gone":
        pods.delete(String(params.pod));
        return { closed: 0 };
      case "svid.put":
        svids.set(String(params.identity), params);
        return {};
      case "svid.remove":
        svids.delete(String(params.identity));
        return {};
      case "generation.set":
        generation = params.generation as number;
        return {};
      case "connections.list":
        return { connections: [] };
      case "connections.reset":
        return { count: (params.ids as unknown[]).length };
      case "sockets.destroy":
        return { count: 0 };
      case "tunnels.list":
        return { tunnels: [] };
      case "drain":
        setImmediate(() => send(6, { event: "drained" }));
        return {};
      default:
        return {};
    }
  };
  const send = (kind: number, message: object): void => {
    if (!peer.destroyed) peer.write(encodeFrame(kind, JSON.stringify(message)));
  };
  const reader = new FrameReader({
    frame(kind, payload) {
      const message = JSON.parse(payload.toString()) as Record<string, unknown>;
      if (kind === 4) {
        waiting.get(message.id as number)?.(message);
        waiting.delete(message.id as number);
        return;
      }
      const { id, method, params } = message as { id: number; method: string; params: Params };
      calls.push({ method, params });
      const value = act(method, params) as { error?: object } | undefined;
      if (value === undefined) return; // no reply: the caller's timeout
      send(2, value.error === undefined ? { id, ok: value } : { id, error: value.error });
    },
  });
  peer.on("data", (chunk: Buffer) => reader.push(chunk));
  peer.on("error", () => {});
  const channel = new NativeChannel(near, listener, clock);
  return {
    channel,
    calls,
    maps,
    pods,
    svids,
    answers,
    generation: () => generation,
    ask(question) {
      const id = nextQuestion++;
      return new Promise((resolve) => {
        waiting.set(id, resolve);
        send(3, { id, ...question });
      });
    },
    records: (bytes) => void peer.write(encodeFrame(5, bytes)),
    event: (event) => send(6, event),
    die: () => peer.destroy(),
    async close() {
      channel.close();
      peer.destroy();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export const silentListener: NativeListener = {
  question: () => null,
  records: () => {},
  event: () => {},
  closed: () => {},
};
