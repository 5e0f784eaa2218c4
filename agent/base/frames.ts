// Length-prefixed frames on a byte stream: `u32 little-endian length of the rest | u8 kind | payload`.
// Pure: bytes in, frames out; it knows neither sockets nor what a kind means.

/** Larger frames are refused: the stream is broken or the peer is not what we think it is. */
export const MAX_FRAME_BYTES = 64 * 1024 * 1024;

/** One frame as bytes on the wire. `kind` is 0-255; text is sent as UTF-8. */
export function encodeFrame(kind: number, payload: string | Uint8Array): Buffer {
  const size = typeof payload === "string" ? Buffer.byteLength(payload) : payload.length;
  const frame = Buffer.allocUnsafe(5 + size);
  frame.writeUInt32LE(size + 1, 0);
  frame[4] = kind;
  if (typeof payload === "string") frame.write(payload, 5);
  else frame.set(payload, 5);
  return frame;
}

export interface FrameSink {
  /** `payload` is only valid during the call: it is a view of the receive buffer. */
  frame(kind: number, payload: Buffer): void;
}

/**
 * Cuts a byte stream into frames. `push` may be given any split of the stream.
 * Throws `RangeError` if a length is 0 or over `MAX_FRAME_BYTES`; the stream cannot be used afterwards.
 */
export class FrameReader {
  readonly #sink: FrameSink;
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** Bytes that must be there before another frame can be complete: spares joining buffers for nothing. */
  #wanted = 4;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#heldBytes < this.#wanted) return;
    const bytes = this.#held.length === 1 ? chunk : Buffer.concat(this.#held, this.#heldBytes);
    let at = 0;
    this.#wanted = 4;
    while (bytes.length - at >= 4) {
      const size = bytes.readUInt32LE(at);
      if (size === 0 || size > MAX_FRAME_BYTES) throw new RangeError(`frame length ${size} is out of range`);
      if (bytes.length - at < 4 + size) {
        this.#wanted = 4 + size;
        break;
      }
      const kind = bytes[at + 4] ?? 0;
      const payload = bytes.subarray(at + 5, at + 4 + size);
      at += 4 + size;
      this.#sink.frame(kind, payload);
    }
    this.#heldBytes = bytes.length - at;
    this.#held = this.#heldBytes === 0 ? [] : [bytes.subarray(at)];
  }
}
