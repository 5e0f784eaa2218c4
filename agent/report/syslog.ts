// Access log lines as syslog messages (RFC 5424) over UDP (RFC 5426), TCP (RFC 6587, octets counted) or a stream socket of the unix domain
// (each ends with a line end). Datagram sockets of the unix domain, as /dev/log mostly is one, Node cannot open: name UDP or TCP instead.
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { type HostPort, parseHostPort } from "../base/env.ts";
import { err, ok, type Result } from "../base/result.ts";
import { type LineSink, mostQueued, type SinkParts } from "./line-sink.ts";

export type SyslogAddress =
  | { readonly kind: "udp" | "tcp"; readonly to: HostPort }
  | { readonly kind: "unix"; readonly path: string };

export function parseSyslogTarget(text: string): Result<SyslogAddress, string> {
  const at = text.indexOf(":");
  const [kind, rest] = [text.slice(0, at), text.slice(at + 1)];
  if (kind === "unix" && rest.startsWith("/")) return ok({ kind, path: rest });
  const to = kind === "udp" || kind === "tcp" ? parseHostPort(rest) : undefined;
  if ((kind !== "udp" && kind !== "tcp") || to === undefined || to.port === 0)
    return err(`"syslog:${text}" is none of syslog:udp:HOST:PORT, syslog:tcp:HOST:PORT, syslog:unix:PATH`);
  return ok({ kind, to });
}

/** Facility local0, severity informational. */
const priority = 16 * 8 + 6;
const reconnectMs = 1_000;
/** What a datagram holds; a line beyond it is dropped. */
const maxDatagram = 65_000;

/** Header of a message before its text, without the time (RFC 5424 §6.2); what the grammar does not allow is left out. */
export const syslogHeader = (hostname: string, pid: number): string =>
  `${hostname.replace(/[^\x21-\x7e]/g, "").slice(0, 255) || "-"} fairlead ${pid} access -`;
export const syslogMessage = (time: string, header: string, line: string): string =>
  `<${priority}>1 ${time} ${header} ${line}`;

export function openSyslog(address: SyslogAddress, parts: SinkParts): LineSink {
  const header = syslogHeader(parts.hostname, parts.pid);
  const message = (line: string): string => syslogMessage(new Date(parts.clock.now()).toISOString(), header, line);
  if (address.kind === "udp") return new UdpSink(address.to, message, parts);
  const framed =
    address.kind === "unix" ? (text: string) => `${text}\n` : (text: string) => `${Buffer.byteLength(text)} ${text}`;
  const open = () => (address.kind === "unix" ? connect(address.path) : connect(address.to));
  return new SocketSink(open, (line) => framed(message(line)), parts);
}

const each = (lines: string): readonly string[] => lines.split("\n").filter((line) => line !== "");

class UdpSink implements LineSink {
  readonly #to: HostPort;
  readonly #message: (line: string) => string;
  readonly #parts: SinkParts;
  #socket: UdpSocket | undefined;
  #connected = false;
  #cancel: () => void = () => {};
  #closed = false;
  /** Given to the kernel and not yet taken. */
  #waiting = 0;

  constructor(to: HostPort, message: (line: string) => string, parts: SinkParts) {
    this.#to = to;
    this.#message = message;
    this.#parts = parts;
    this.#begin();
  }

  #begin(): void {
    const socket = createSocket(this.#to.host.includes(":") ? "udp6" : "udp4");
    this.#socket = socket;
    socket.unref();
    socket.on("connect", () => {
      this.#connected = true;
    });
    // The name does not resolve; or nobody listens there, which a connected socket learns after the fact.
    socket.on("error", () => {
      if (this.#connected || this.#closed) return;
      socket.close();
      this.#cancel = this.#parts.clock.after(reconnectMs, () => this.#begin());
    });
    socket.connect(this.#to.port, this.#to.host);
  }

  write(lines: string, _count: number): void {
    for (const line of each(lines)) {
      const bytes = Buffer.from(this.#message(line));
      if (!this.#connected || this.#waiting > 1_000 || bytes.length > maxDatagram) {
        this.#parts.dropped(1);
        continue;
      }
      this.#waiting++;
      this.#socket?.send(bytes, (error) => {
        this.#waiting--;
        if (error) this.#parts.dropped(1);
      });
    }
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#cancel();
    return new Promise((resolve) => {
      if (this.#connected) this.#socket?.close(() => resolve());
      else resolve();
    });
  }
}

class SocketSink implements LineSink {
  readonly #open: () => Socket;
  readonly #framed: (line: string) => string;
  readonly #parts: SinkParts;
  #socket: Socket | undefined;
  #connected = false;
  #cancel: () => void = () => {};
  #closed = false;

  constructor(open: () => Socket, framed: (line: string) => string, parts: SinkParts) {
    this.#open = open;
    this.#framed = framed;
    this.#parts = parts;
    this.#begin();
  }

  #begin(): void {
    const socket = this.#open();
    this.#socket = socket;
    socket.unref();
    socket.on("connect", () => {
      this.#connected = true;
    });
    socket.on("error", () => {});
    // What a server says is read over, so that its end is seen.
    socket.resume();
    socket.on("end", () => socket.destroy());
    socket.on("close", () => {
      this.#connected = false;
      if (!this.#closed) this.#cancel = this.#parts.clock.after(reconnectMs, () => this.#begin());
    });
  }

  write(lines: string, count: number): void {
    const socket = this.#socket;
    if (socket === undefined || !this.#connected || socket.writableLength > mostQueued) this.#parts.dropped(count);
    else {
      let text = "";
      for (const line of each(lines)) text += this.#framed(line);
      socket.write(text, (error) => {
        if (error) this.#parts.dropped(count);
      });
    }
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#cancel();
    const socket = this.#socket;
    if (socket === undefined || !this.#connected) {
      socket?.destroy();
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        resolve();
      };
      const cancel = this.#parts.clock.after(2_000, () => {
        socket.destroy();
        resolve();
      });
      socket.end(done);
      socket.once("close", done);
    });
  }
}
