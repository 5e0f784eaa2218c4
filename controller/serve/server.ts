// The gRPC listener: TLS 1.3, a client certificate asked for and verified, keepalive, bounded messages.
import type { SecureContextOptions } from "node:tls";
import { logVerbosity, Server, ServerCredentials, setLogVerbosity } from "@grpc/grpc-js";

// What the library would print is in the errors that it returns.
setLogVerbosity(logVerbosity.NONE);

export interface ServerTls {
  readonly certPem: string;
  readonly keyPem: string;
  readonly clientRootsPem: readonly string[];
}

/** A certificate is verified when given and not demanded: Join comes without one. What an unverified caller may do is decided per call. */
class NodeTls extends ServerCredentials {
  constructor(tls: ServerTls) {
    super({ requestCert: true, rejectUnauthorized: false, minVersion: "TLSv1.3" }, contextOf(tls));
  }
  update(tls: ServerTls): void {
    this.updateSecureContextOptions(contextOf(tls));
  }
  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}
const contextOf = (tls: ServerTls): SecureContextOptions => ({
  cert: tls.certPem,
  key: tls.keyPem,
  ca: [...tls.clientRootsPem],
  minVersion: "TLSv1.3",
});

export interface GrpcServer {
  readonly server: Server;
  /** New certificate and roots for new connections. */
  setTls(tls: ServerTls): void;
  /** Resolves to the bound port. */
  listen(address: string): Promise<number>;
  /** Lets calls end until the signal, then cuts them. */
  close(deadline: AbortSignal): Promise<void>;
}

export function createGrpcServer(tls: ServerTls): GrpcServer {
  const credentials = new NodeTls(tls);
  const server = new Server({
    // A dead agent is noticed within 15 s (DIS-4 asks for 30).
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
    "grpc.max_receive_message_length": 4_194_304,
    "grpc.max_concurrent_streams": 64,
    "grpc.enable_channelz": 0,
  });
  return {
    server,
    setTls: (next) => credentials.update(next),
    listen: (address) =>
      new Promise((resolve, reject) => {
        server.bindAsync(address, credentials, (error, port) => (error === null ? resolve(port) : reject(error)));
      }),
    close: (deadline) =>
      new Promise((resolve) => {
        const cut = (): void => server.forceShutdown();
        deadline.addEventListener("abort", cut, { once: true });
        server.tryShutdown(() => {
          deadline.removeEventListener("abort", cut);
          resolve();
        });
        if (deadline.aborted) cut();
      }),
  };
}
