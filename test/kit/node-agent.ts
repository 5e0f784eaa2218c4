// What an agent does toward the controller, by hand: keys, requests, joining, certificates, the discovery stream. A real gRPC client.
import { generateKeyPairSync } from "node:crypto";
import {
  type ChannelCredentials,
  type ClientDuplexStream,
  credentials,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import {
  AggregatedDiscoveryServiceClient,
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
} from "../../agent/api/discovery.gen.ts";
import {
  CertificateServiceClient,
  type IssueJwtResponse,
  type IssueResponse,
  type JoinResponse,
  NodeServiceClient,
} from "../../agent/api/mesh.gen.ts";
import { decodeResource, kindOfTypeUrl, type MeshResource } from "../../agent/api/resources.ts";
import { x509 } from "../../controller/issue/x509.ts";
import type { TestController } from "./controller.ts";
import { patienceMs } from "./wait.ts";

export interface Keyed {
  readonly csrPem: string;
  readonly keyPem: string;
}
export interface Credential {
  readonly chainPem: string;
  readonly keyPem: string;
}

/** A request with the URI as its only name (none when `uri` is undefined), for a fresh P-256 key or the given algorithm. */
export async function makeCsr(
  uri: string | undefined,
  kind: "p-256" | "p-384" | "rsa-1024" | "rsa-2048" = "p-256",
  dns: readonly string[] = [],
): Promise<Keyed> {
  const pair =
    kind === "p-256" || kind === "p-384"
      ? generateKeyPairSync("ec", { namedCurve: kind.toUpperCase() })
      : generateKeyPairSync("rsa", { modulusLength: Number(kind.slice(4)) });
  const algorithm = kind.startsWith("p-")
    ? { name: "ECDSA", namedCurve: kind.toUpperCase(), hash: "SHA-256" }
    : { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
  const load = (format: "pkcs8" | "spki", der: Uint8Array<ArrayBuffer>, usage: "sign" | "verify") =>
    crypto.subtle.importKey(format, der, algorithm, true, [usage]);
  const privateKey = await load(
    "pkcs8",
    new Uint8Array(pair.privateKey.export({ type: "pkcs8", format: "der" })),
    "sign",
  );
  const publicKey = await load(
    "spki",
    new Uint8Array(pair.publicKey.export({ type: "spki", format: "der" })),
    "verify",
  );
  const names = [
    ...(uri === undefined ? [] : [{ type: "url" as const, value: uri }]),
    ...dns.map((value) => ({ type: "dns" as const, value })),
  ];
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({
    name: "",
    keys: { privateKey, publicKey },
    signingAlgorithm: algorithm,
    extensions: names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(names)],
  });
  return { csrPem: csr.toString("pem"), keyPem: pair.privateKey.export({ type: "pkcs8", format: "pem" }) as string };
}

const address = (controller: TestController): string => `127.0.0.1:${controller.ports.grpc}`;
/** Node refuses an IP address as the TLS server name; the controller answers to this name at every address. */
export const named = { "grpc.ssl_target_name_override": "fairlead-controller" };
const channel = (rootsPem: string, credential?: Credential) =>
  credentials.createSsl(
    Buffer.from(rootsPem),
    credential === undefined ? null : Buffer.from(credential.keyPem),
    credential === undefined ? null : Buffer.from(credential.chainPem),
  );
/** Every call carries the token, as an agent in a cluster does it. */
export const channelWithToken = (rootsPem: string, token: string): ChannelCredentials => {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  const bearer = credentials.createFromMetadataGenerator((_options, done) => done(null, metadata));
  return credentials.combineChannelCredentials(channel(rootsPem), bearer);
};

export async function rootsOf(controller: TestController): Promise<string> {
  return (await controller.admin("GET", "/v1/roots")).text;
}
export async function tokenFor(controller: TestController, node: string): Promise<string> {
  return (await controller.admin("POST", "/v1/join-tokens", { node })).json.token;
}

/** Calls a unary method and closes its connection. */
async function once<C extends { close(): void }, R>(
  client: C,
  run: (client: C, done: (error: ServiceError | null, value: R) => void) => unknown,
): Promise<R> {
  try {
    return await new Promise<R>((resolve, reject) =>
      run(client, (error, value) => (error === null ? resolve(value) : reject(error))),
    );
  } finally {
    client.close();
  }
}

export async function join(
  controller: TestController,
  node: string,
  token: string,
  keyed: Keyed,
): Promise<JoinResponse> {
  const client = new NodeServiceClient(address(controller), channel(await rootsOf(controller)), named);
  return once(client, (c, done) => c.join({ node, token, csrPem: keyed.csrPem }, done));
}

export interface TestNode extends TestCaller {
  readonly name: string;
  readonly credential: Credential;
  readonly rootsPem: string;
}
/** What a caller can do once it shows who it is. */
export interface TestCaller {
  issue(identity: string, csrPem: string): Promise<IssueResponse>;
  issueJwt(identity: string, audience: readonly string[]): Promise<string>;
  renew(node: string, csrPem: string): Promise<JoinResponse>;
  report(report: Parameters<NodeServiceClient["report"]>[0]): Promise<void>;
  stream(): TestStream;
}

export async function joinedNode(controller: TestController, name: string): Promise<TestNode> {
  const keyed = await makeCsr(`spiffe://cluster.local/node/${name}`);
  const { chainPem, rootsPem } = await join(controller, name, await tokenFor(controller, name), keyed);
  return nodeWith(controller, name, { chainPem, keyPem: keyed.keyPem }, rootsPem);
}

export function nodeWith(controller: TestController, name: string, credential: Credential, rootsPem: string): TestNode {
  return { name, credential, rootsPem, ...callerBy(controller, () => channel(rootsPem, credential)) };
}

/** Whoever shows this token, if it is taken. */
export const callerWithToken = (controller: TestController, token: string, rootsPem: string): TestCaller =>
  callerBy(controller, () => channelWithToken(rootsPem, token));

function callerBy(controller: TestController, creds: () => ChannelCredentials): TestCaller {
  const at = address(controller);
  return {
    issue: (identity, csrPem) =>
      once(new CertificateServiceClient(at, creds(), named), (c, done) => c.issue({ identity, csrPem }, done)),
    issueJwt: async (identity, audience) => {
      const request = { identity, audience: [...audience] };
      const client = new CertificateServiceClient(at, creds(), named);
      return (await once<CertificateServiceClient, IssueJwtResponse>(client, (c, done) => c.issueJwt(request, done)))
        .token;
    },
    renew: (node, csrPem) =>
      once(new NodeServiceClient(at, creds(), named), (c, done) => c.renew({ node, token: "", csrPem }, done)),
    report: (report) =>
      once(new NodeServiceClient(at, creds(), named), (c, done) =>
        c.report(report, (error) => done(error, undefined as never)),
      ),
    stream: () => new TestStream(new AggregatedDiscoveryServiceClient(at, creds(), named)),
  };
}

/** A discovery stream that keeps every response and acknowledges only when told. */
export class TestStream {
  readonly responses: DeltaDiscoveryResponse[] = [];
  readonly #client: AggregatedDiscoveryServiceClient;
  readonly #call: ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
  readonly #waiting: {
    readonly want: number;
    readonly resolve: () => void;
    readonly reject: (error: Error) => void;
  }[] = [];
  #taken = 0;
  error: ServiceError | undefined;

  constructor(client: AggregatedDiscoveryServiceClient) {
    this.#client = client;
    this.#call = client.deltaAggregatedResources();
    this.#call.on("data", (response) => {
      this.responses.push(response);
      this.#wake();
    });
    this.#call.on("error", (error: ServiceError) => {
      this.error = error;
      for (const waiter of this.#waiting.splice(0)) waiter.reject(error);
    });
  }
  pause(): void {
    this.#call.pause();
  }
  resume(): void {
    this.#call.resume();
  }
  subscribe(typeUrl: string, initial: Readonly<Record<string, string>> = {}, names: readonly string[] = []): void {
    this.send({ typeUrl, initialResourceVersions: { ...initial }, resourceNamesSubscribe: [...names] });
  }
  send(message: Partial<DeltaDiscoveryRequest>): void {
    this.#call.write(DeltaDiscoveryRequest.create(message));
  }
  ack(response: DeltaDiscoveryResponse): void {
    this.send({ typeUrl: response.typeUrl, responseNonce: response.nonce });
  }
  nack(response: DeltaDiscoveryResponse, message: string): void {
    this.send({ typeUrl: response.typeUrl, responseNonce: response.nonce, errorDetail: { code: 3, message } });
  }
  /** The next response that was not taken yet. */
  async next(timeoutMs = patienceMs): Promise<DeltaDiscoveryResponse> {
    const want = ++this.#taken;
    if (this.responses.length < want) {
      await new Promise<void>((resolve, reject) => {
        if (this.error !== undefined) reject(this.error);
        const timer = setTimeout(() => reject(new Error(`no response within ${timeoutMs} ms`)), timeoutMs);
        const settle = (run: () => void) => () => {
          clearTimeout(timer);
          run();
        };
        this.#waiting.push({ want, resolve: settle(resolve), reject: (error) => settle(() => reject(error))() });
      });
    }
    return this.responses[want - 1] as DeltaDiscoveryResponse;
  }
  /** What has come and was not waited for yet. */
  untaken(): readonly DeltaDiscoveryResponse[] {
    return this.responses.slice(this.#taken);
  }
  /** True when nothing comes for so long. */
  async isQuiet(ms: number): Promise<boolean> {
    const before = this.responses.length;
    await new Promise((resolve) => setTimeout(resolve, ms));
    return this.responses.length === before && this.#taken === before;
  }
  close(): void {
    this.#call.cancel();
    this.#client.close();
  }
  #wake(): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      if ((this.#waiting[i]?.want ?? 0) <= this.responses.length) this.#waiting.splice(i, 1)[0]?.resolve();
    }
  }
}

/** The records in a response. */
export function recordsOf(response: DeltaDiscoveryResponse): readonly MeshResource[] {
  const kind = kindOfTypeUrl(response.typeUrl);
  if (kind === undefined) throw new Error(`unknown type ${response.typeUrl}`);
  return response.resources.map((resource) => {
    const decoded = decodeResource(kind, resource.resource?.value ?? new Uint8Array());
    if (!decoded.ok) throw new Error(JSON.stringify(decoded.error));
    return decoded.value;
  });
}
export const versionsOf = (response: DeltaDiscoveryResponse): Record<string, string> =>
  Object.fromEntries(response.resources.map((r) => [r.name, r.version]));
