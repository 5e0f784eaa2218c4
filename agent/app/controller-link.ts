// Connections to the controller: TLS 1.3 with its roots, keepalive on. The node shows its credential as the client certificate, or with
// every call the service account token of its agent.
import { readFileSync } from "node:fs";
import {
  type CallCredentials,
  type ChannelCredentials,
  type ClientOptions,
  credentials,
  Metadata,
} from "@grpc/grpc-js";
import { AggregatedDiscoveryServiceClient } from "../api/discovery.gen.ts";
import { CertificateServiceClient, type JoinResponse, NodeServiceClient } from "../api/mesh.gen.ts";
import type { Clock } from "../base/clock.ts";
import { parseIp } from "../base/ip.ts";
import { messageOf } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import type { OpenedStream } from "../discover/controller-source.ts";
import type { JoinService, NodeCredential } from "../identify/node-credential.ts";
import { readToken } from "../identify/token-file.ts";
import { ControllerAddresses, type LookUp } from "./controller-addresses.ts";

/** In every certificate that a controller serves with. */
const standardName = "fairlead-controller";

/** Every call carries the token as it is in the file by then. A call without one fails with the reason. */
const bearer = (tokenFile: string): CallCredentials =>
  credentials.createFromMetadataGenerator((_options, done) => {
    void readToken(tokenFile).then((token) => {
      if (!token.ok) return done(new Error(token.error));
      const metadata = new Metadata();
      metadata.set("authorization", `Bearer ${token.value}`);
      done(null, metadata);
    });
  });

export class ControllerLink {
  readonly #config: Config;
  readonly #clock: Clock;
  #credential: NodeCredential | undefined;
  #discovered = "";
  readonly #addresses: ControllerAddresses;
  #hasTried = false;
  #services: { readonly node: NodeServiceClient; readonly certificates: CertificateServiceClient } | undefined;

  constructor(config: Config, clock: Clock, lookUp?: LookUp) {
    this.#config = config;
    this.#clock = clock;
    this.#addresses = new ControllerAddresses(config.controllers, config.node, clock, lookUp);
    this.#addresses.refresh();
  }

  /** The controller that serves us, or is tried first. */
  get address(): string {
    return this.#addresses.all[0] ?? "";
  }

  /** From now on calls present this credential; open streams keep theirs. */
  setCredential(credential: NodeCredential): void {
    this.#credential = credential;
    this.#retire();
  }

  /** Roots of the mesh as discovery knows them: while they change, the controller may serve under either (IDN-9). */
  setRoots(rootsPem: string): void {
    if (rootsPem === this.#discovered) return;
    this.#discovered = rootsPem;
    this.#retire();
  }

  /** The join service, which the controller answers without (join) or with (renew) a client certificate. */
  readonly joinService: JoinService = {
    join: (request) => this.#joinCall("join", request, undefined),
    renew: (request, current) => this.#joinCall("renew", request, current),
  };

  /** Whether calls can show who we are: the token is looked at with each call. */
  get #isKnown(): boolean {
    return this.#credential !== undefined || this.#config.tokenFile !== "";
  }

  /**
   * A discovery stream over a connection of its own, so that a new attempt never waits for an old one's pause. Whoever asks again has lost
   * the one before: the next controller is tried first, and every other call goes where the stream is.
   */
  openStream(): Result<OpenedStream, string> {
    if (this.#hasTried) {
      this.#addresses.next();
      this.#addresses.refresh();
      this.#retire();
    }
    this.#hasTried = true;
    const secure = this.#credentials(this.#credential);
    if (!secure.ok) return secure;
    if (!this.#isKnown) return err("this node has not joined yet");
    const { address } = this;
    const client = new AggregatedDiscoveryServiceClient(this.#addresses.target, secure.value, this.#options());
    const unreachable = new Promise<string>((resolve) => {
      // Packets that are dropped give no error of their own; once there is a connection, keepalive watches it.
      client.waitForReady(this.#clock.now() + this.#config.callMs, (error) => {
        if (error !== undefined && error !== null)
          resolve(`no connection to ${address} within ${this.#config.callMs} ms`);
      });
    });
    const stream = client.deltaAggregatedResources();
    stream.once("metadata", () => {
      this.#addresses.served(stream.getPeer());
      if (this.address !== address) this.#retire();
    });
    return ok({ stream, close: () => client.close(), unreachable });
  }

  certificates(): Result<CertificateServiceClient, string> {
    const services = this.#open();
    return services.ok ? ok(services.value.certificates) : services;
  }

  node(): Result<NodeServiceClient, string> {
    const services = this.#open();
    return services.ok ? ok(services.value.node) : services;
  }

  close(): void {
    this.#addresses.close();
    this.#services?.node.close();
    this.#services?.certificates.close();
    this.#services = undefined;
  }

  /** New calls take a new connection; those under way end on the old one. */
  #retire(): void {
    const old = this.#services;
    this.#services = undefined;
    if (old === undefined) return;
    this.#clock.after(this.#config.callMs, () => {
      old.node.close();
      old.certificates.close();
    });
  }

  #open() {
    if (this.#services !== undefined) return ok(this.#services);
    if (!this.#isKnown) return err("this node has not joined yet");
    const secure = this.#credentials(this.#credential);
    if (!secure.ok) return secure;
    const node = new NodeServiceClient(this.#addresses.target, secure.value, this.#options());
    const certificates = new CertificateServiceClient(this.#addresses.target, secure.value, this.#options());
    this.#services = { node, certificates };
    return ok(this.#services);
  }

  /** Roots: those the node was given at set-up, those that came with the credential, those of discovery. */
  #credentials(credential: NodeCredential | undefined): Result<ChannelCredentials, string> {
    const { caFile, tokenFile } = this.#config;
    let roots = `${credential?.rootsPem ?? ""}\n${this.#discovered}`.trim();
    try {
      if (caFile !== "") roots = `${readFileSync(caFile, "utf8")}\n${roots}`;
    } catch (error) {
      if (roots === "") return err(`FAIRLEAD_CA_FILE: ${messageOf(error)}`);
    }
    if (roots.trim() === "") return err("no roots for the controller's certificate: set FAIRLEAD_CA_FILE");
    const key = credential === undefined ? null : Buffer.from(credential.keyPem);
    const chain = credential === undefined ? null : Buffer.from(credential.chainPem);
    const tls = credentials.createSsl(Buffer.from(roots), key, chain);
    return ok(tokenFile === "" ? tls : credentials.combineChannelCredentials(tls, bearer(tokenFile)));
  }

  #options(): ClientOptions {
    const { controllerName, controllers, keepaliveMs, keepaliveWaitMs } = this.#config;
    // TLS has no server name for an address (RFC 6066 §3): there the controller's own name is asked for and checked.
    const given = controllers.map(({ host }) => host).find((host) => parseIp(host) === undefined);
    const name = controllerName || given || standardName;
    return {
      "grpc.keepalive_time_ms": keepaliveMs,
      "grpc.keepalive_timeout_ms": keepaliveWaitMs,
      "grpc.keepalive_permit_without_calls": 1,
      "grpc.max_receive_message_length": 256 * 1024 * 1024,
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.min_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 500,
      // Attempts of one client must not inherit the pauses of another.
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_http_proxy": 0,
      "grpc.ssl_target_name_override": name,
    };
  }

  #joinCall(
    method: "join" | "renew",
    request: Parameters<JoinService["join"]>[0],
    credential: NodeCredential | undefined,
  ): Promise<Result<JoinResponse, string>> {
    const secure = this.#credentials(credential);
    if (!secure.ok) return Promise.resolve(secure);
    const client = new NodeServiceClient(this.#addresses.target, secure.value, this.#options());
    return new Promise((resolve) => {
      const deadline = this.#clock.now() + this.#config.callMs;
      client[method](request, new Metadata(), { deadline }, (error, response) => {
        client.close();
        // A token is good at the replica that made it, where replicas share nothing: the next try is another's.
        if (error !== null && method === "join") this.#addresses.next();
        resolve(error === null ? ok(response) : err(error.details || error.message));
      });
    });
  }
}
