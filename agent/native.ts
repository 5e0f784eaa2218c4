// The one door to the Rust library (docs/native-channel.md): loads it, adopts the channel's descriptor, and turns frames into
// typed calls, questions, records and events. Nothing here is on the path of a byte.
import { Socket } from "node:net";
import { DataType, define, open as openLibrary } from "ffi-rs";
import type { Clock } from "./base/clock.ts";
import { encodeFrame, FrameReader } from "./base/frames.ts";
import { err, ok, type Result } from "./base/result.ts";
import type { CallFault, Calls, NativeSettings } from "./native-calls.ts";

/** Must equal `fl_abi_version()`; raised whenever the C functions or the frames change their meaning. */
export const NATIVE_ABI_VERSION = 1;

const Kind = { call: 1, reply: 2, question: 3, answer: 4, records: 5, event: 6 } as const;

/** A question as it comes off the channel; `agent/flow.ts` has the shapes by `ask`. */
export type WireQuestion = { readonly id: number; readonly ask: string };
export type WireEvent = { readonly event: string } & Readonly<Record<string, unknown>>;

/** What the agent does with what native says. All run on the event loop and must not throw. */
export interface NativeListener {
  /** Returns the answer without `id`, or `null` if there is none: native refuses at once what it asked for. */
  question(question: WireQuestion): object | null;
  /** `records` holds n x 128 bytes and is only valid during the call. */
  records(records: Buffer): void;
  event(event: WireEvent): void;
  /** A reply to a call that was given up meanwhile: what it hands over is to be closed. */
  late?(value: unknown): void;
  /** The channel is gone: native died or the stream broke. Called once. */
  closed(reason: string): void;
}

/** Typed calls over the channel. A call never throws for what native refuses: that is a `CallFault`. */
export interface Native {
  call<M extends keyof Calls>(
    method: M,
    params: Calls[M]["params"],
    timeoutMs?: number,
  ): Promise<Result<Calls[M]["value"], CallFault>>;
}

interface Pending {
  settle(result: Result<unknown, CallFault>): void;
  cancel(): void;
}

/** One end of the channel over an open stream. Owns the stream and ends it on `close`. */
export class NativeChannel implements Native {
  readonly #stream: Socket;
  readonly #listener: NativeListener;
  readonly #clock: Clock;
  readonly #defaultTimeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #open = true;

  constructor(stream: Socket, listener: NativeListener, clock: Clock, defaultTimeoutMs = 10_000) {
    this.#stream = stream;
    this.#listener = listener;
    this.#clock = clock;
    this.#defaultTimeoutMs = defaultTimeoutMs;
    const reader = new FrameReader({ frame: (kind, payload) => this.#frame(kind, payload) });
    stream.on("data", (chunk: Buffer) => {
      try {
        reader.push(chunk);
      } catch (error) {
        this.#fail(`channel broken: ${(error as Error).message}`);
      }
    });
    stream.on("error", (error) => this.#fail(`channel error: ${error.message}`));
    stream.on("close", () => this.#fail("channel closed by native"));
  }

  call<M extends keyof Calls>(
    method: M,
    params: Calls[M]["params"],
    timeoutMs = this.#defaultTimeoutMs,
  ): Promise<Result<Calls[M]["value"], CallFault>> {
    if (!this.#open)
      return Promise.resolve(err({ code: "channel_closed", message: `${method}: the channel is closed` }));
    const id = this.#nextId++;
    return new Promise((resolve) => {
      const cancel = this.#clock.after(timeoutMs, () => {
        this.#pending.delete(id);
        resolve(err({ code: "call_timeout", message: `${method}: no reply within ${timeoutMs} ms` }));
      });
      this.#pending.set(id, { cancel, settle: resolve as Pending["settle"] });
      this.#stream.write(encodeFrame(Kind.call, JSON.stringify({ id, method, params })));
    });
  }

  /** Ends the channel without a `closed` report. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#settleAll("the channel was closed");
    this.#stream.destroy();
  }

  #frame(kind: number, payload: Buffer): void {
    if (kind === Kind.records) this.#listener.records(payload);
    else this.#message(kind, JSON.parse(payload.toString()) as Record<string, unknown>);
  }

  #message(kind: number, message: Record<string, unknown>): void {
    if (kind === Kind.reply) this.#reply(message);
    else if (kind === Kind.question) this.#question(message as WireQuestion);
    else if (kind === Kind.event) this.#listener.event(message as WireEvent);
    else throw new RangeError(`frame of unknown kind ${kind}`);
  }

  #question(question: WireQuestion): void {
    const answer = this.#listener.question(question) ?? { failed: true };
    this.#stream.write(encodeFrame(Kind.answer, JSON.stringify({ id: question.id, ...answer })));
  }

  #reply(reply: Record<string, unknown>): void {
    const pending = this.#pending.get(reply.id as number);
    if (pending === undefined) {
      // Answered after its timeout: already reported as one.
      if (reply.error === undefined) this.#listener.late?.(reply.ok);
      return;
    }
    this.#pending.delete(reply.id as number);
    pending.cancel();
    pending.settle(reply.error === undefined ? ok(reply.ok) : err(reply.error as CallFault));
  }

  #fail(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#settleAll(reason);
    this.#stream.destroy();
    this.#listener.closed(reason);
  }

  #settleAll(reason: string): void {
    for (const pending of this.#pending.values()) {
      pending.cancel();
      pending.settle(err({ code: "channel_closed", message: reason }));
    }
    this.#pending.clear();
  }
}

/** Adopts a descriptor made by native: the main channel's, or a data thread's own. */
export function adoptChannel(fd: number, listener: NativeListener, clock: Clock): NativeChannel {
  return new NativeChannel(new Socket({ fd, readable: true, writable: true }), listener, clock);
}

export interface StartedNative {
  readonly channel: NativeChannel;
  /** Crate version and build of the BPF objects. */
  readonly version: string;
}

/**
 * Loads the library and starts it. Errors say what to do: a missing file names the build command, a foreign ABI both numbers.
 * `libraryPath` is the absolute path of `libfairlead.so`.
 */
export function startNative(
  libraryPath: string,
  settings: NativeSettings,
  listener: NativeListener,
  clock: Clock,
): Result<StartedNative, string> {
  const library = "fairlead";
  try {
    openLibrary({ library, path: libraryPath });
  } catch (error) {
    return err(`cannot load ${libraryPath}: ${(error as Error).message}; build it with "npm run setup"`);
  }
  const c = define({
    fl_abi_version: { library, retType: DataType.I32, paramsType: [] },
    fl_start: { library, retType: DataType.I32, paramsType: [DataType.String] },
    fl_last_error: { library, retType: DataType.String, paramsType: [] },
    fl_version: { library, retType: DataType.String, paramsType: [] },
  });
  const abi = c.fl_abi_version([]) as number;
  if (abi !== NATIVE_ABI_VERSION)
    return err(`${libraryPath} has ABI ${abi}, this agent needs ${NATIVE_ABI_VERSION}: build both from one version`);
  const fd = c.fl_start([JSON.stringify(settings)]) as number;
  if (fd < 0) return err(`native did not start (${fd}): ${c.fl_last_error([]) as string}`);
  return ok({ channel: adoptChannel(fd, listener, clock), version: c.fl_version([]) as string });
}
