// Cuts a byte stream into HTTP/2 frames (RFC 9113 §4.1), wherever reads cut it. DATA is given on as it comes, without waiting for
// the rest of its frame and without a copy; other frames are whole, and only those that lie across two reads are copied.
import { defaultFrameSize, errorCode, flag, frameHeaderBytes, frameType, preface } from "./codes.ts";

/** All but `over` tell whether reading goes on. */
export interface FrameSink {
  /** Any frame but DATA. The bytes are the sink's during the call only. */
  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): boolean;
  /** A DATA frame begins: `length` is what flow control counts, padding included. */
  dataBegin(flags: number, id: number, length: number): boolean;
  /** Content of that frame; `last`: nothing follows. Not called for a frame without content. */
  dataPiece(bytes: Buffer, start: number, end: number, last: boolean): boolean;
  /** All of the frame has come, `empty`: and it had no content. */
  dataEnd(empty: boolean): boolean;
  /** The stream cannot be followed any further; nothing more is read. */
  broken(code: number, reason: string): void;
}

const dataNone = 0;
/** The pad length is the next byte. */
const dataPad = 1;
const dataContent = 2;

export class FrameReader {
  private readonly sink: FrameSink;
  private prefaceAt: number;
  /** A frame of which a part came: header and payload, as far as it goes. Null at a frame's boundary. */
  private held: Buffer | null = null;
  private heldBytes = 0;
  private data = dataNone;
  /** Of the DATA frame: content and padding still to come, and whether there was any content. */
  private content = 0;
  private padding = 0;
  private empty = true;
  private ended = false;

  /** `expectPreface`: the other side is a client. */
  constructor(sink: FrameSink, expectPreface: boolean) {
    this.sink = sink;
    this.prefaceAt = expectPreface ? 0 : preface.length;
  }

  /** True: the preface or a frame other than DATA has begun and not ended. */
  get midFrame(): boolean {
    return this.held !== null || (this.prefaceAt > 0 && this.prefaceAt < preface.length);
  }

  /** Reads all, or until `goesOn` says no behind a frame; gives how far it came. Bytes behind an end are not needed. */
  read(bytes: Buffer, goesOn?: () => boolean): number {
    const end = bytes.length;
    let at = 0;
    if (this.prefaceAt < preface.length) {
      while (at < end && this.prefaceAt < preface.length) {
        if (bytes[at++] !== preface[this.prefaceAt++]) {
          this.stop(errorCode.protocolError, "preface");
          return end;
        }
      }
    }
    while (at < end && !this.ended) {
      if (this.data !== dataNone) at = this.readData(bytes, at, end);
      else if (this.held !== null) at = this.readHeld(this.held, bytes, at, end);
      else if (end - at < frameHeaderBytes) {
        this.hold(frameHeaderBytes, bytes, at, end);
        at = end;
      } else at = this.readFrame(bytes, at, end);
      if (goesOn !== undefined && at < end && !goesOn()) return at;
    }
    return end;
  }

  stop(code: number, reason: string): void {
    if (this.ended) return;
    this.ended = true;
    this.held = null;
    this.sink.broken(code, reason);
  }

  /** Nothing more is read, without a word. */
  end(): void {
    this.ended = true;
    this.held = null;
  }

  private hold(size: number, bytes: Buffer, at: number, end: number): void {
    this.held = Buffer.allocUnsafe(size);
    this.heldBytes = bytes.copy(this.held, 0, at, end);
  }

  private readFrame(bytes: Buffer, at: number, end: number): number {
    const length = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
    if (length > defaultFrameSize) {
      this.stop(errorCode.frameSizeError, "frame_size");
      return end;
    }
    if (bytes[at + 3] === frameType.data) {
      this.beginData(bytes, at, length);
      return at + frameHeaderBytes;
    }
    const whole = frameHeaderBytes + length;
    if (end - at < whole) {
      this.hold(whole, bytes, at, end);
      return end;
    }
    this.give(bytes, at, whole);
    return at + whole;
  }

  private readHeld(held: Buffer, bytes: Buffer, at: number, end: number): number {
    const take = Math.min(held.length - this.heldBytes, end - at);
    bytes.copy(held, this.heldBytes, at, at + take);
    this.heldBytes += take;
    if (this.heldBytes < held.length) return at + take;
    this.held = null;
    if (held.length > frameHeaderBytes) this.give(held, 0, held.length);
    else {
      // The header is whole now; a frame without payload ends here, another is held on.
      this.readFrame(held, 0, held.length);
    }
    return at + take;
  }

  private give(bytes: Buffer, at: number, whole: number): void {
    const id = bytes.readUInt32BE(at + 5) & 0x7fff_ffff;
    const type = bytes[at + 3] as number;
    const flags = bytes[at + 4] as number;
    if (!this.sink.frame(type, flags, id, bytes, at + frameHeaderBytes, at + whole)) this.ended = true;
  }

  private beginData(bytes: Buffer, at: number, length: number): void {
    const id = bytes.readUInt32BE(at + 5) & 0x7fff_ffff;
    const flags = bytes[at + 4] as number;
    const padded = (flags & flag.padded) !== 0;
    if (padded && length === 0) {
      this.stop(errorCode.frameSizeError, "data_padding");
      return;
    }
    this.content = length;
    this.padding = 0;
    this.empty = true;
    if (!this.sink.dataBegin(flags, id, length)) this.ended = true;
    else if (padded) this.data = dataPad;
    else if (length === 0) this.endData();
    else this.data = dataContent;
  }

  private endData(): void {
    this.data = dataNone;
    if (!this.sink.dataEnd(this.empty)) this.ended = true;
  }

  private readData(bytes: Buffer, at: number, end: number): number {
    let place = at;
    if (this.data === dataPad) {
      const padding = bytes[place++] as number;
      if (padding >= this.content) {
        this.stop(errorCode.protocolError, "data_padding");
        return end;
      }
      this.padding = padding;
      this.content -= 1 + padding;
      this.data = dataContent;
    }
    if (this.content > 0 && place < end) {
      const take = Math.min(this.content, end - place);
      this.content -= take;
      this.empty = false;
      if (!this.sink.dataPiece(bytes, place, place + take, this.content === 0)) {
        this.ended = true;
        return end;
      }
      place += take;
    }
    if (this.content === 0 && !this.ended) {
      const take = Math.min(this.padding, end - place);
      this.padding -= take;
      place += take;
      if (this.padding === 0) this.endData();
    }
    return place;
  }
}
