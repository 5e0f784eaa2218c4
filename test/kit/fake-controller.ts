// A small control plane that speaks the real protocols over real TLS: delta discovery, join, certificates. Tests say what it knows
// and break it on purpose.
import "reflect-metadata";
import { createHash, createPrivateKey } from "node:crypto";
import { Server, ServerCredentials, type ServerDuplexStream, status } from "@grpc/grpc-js";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsageExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import {
  AggregatedDiscoveryServiceService,
  type DeltaDiscoveryRequest,
  DeltaDiscoveryResponse,
} from "../../agent/api/discovery.gen.ts";
import {
  type CertificateServiceServer,
  CertificateServiceService,
  type NodeServiceServer,
  NodeServiceService,
  type ReportRequest,
} from "../../agent/api/mesh.gen.ts";
import { codecs, encodeResource, type MeshResource, resourceName, typeUrlOf } from "../../agent/api/resources.ts";
import { firstJwtKeys, type JwtKey, JwtSigner } from "../../controller/issue/jwt.ts";

type Stream = ServerDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export interface FakeController {
  readonly port: number;
  readonly rootsPem: string;
  readonly requests: DeltaDiscoveryRequest[];
  readonly reports: ReportRequest[];
  readonly streams: () => number;
  readonly issued: string[];
  /** Sent to new streams; `push` also sends to open ones. */
  readonly resources: Map<string, MeshResource>;
  push(changed: readonly MeshResource[], removed?: readonly { typeUrl: string; name: string }[]): void;
  /** Sends bytes that need not be a resource. */
  pushRaw(typeUrl: string, name: string, value: Uint8Array): void;
  /** Stops answering certificate requests. */
  refuseCertificates: boolean;
  /** Discovery is answered once this has resolved. */
  discoveryHeld: Promise<unknown>;
  svidLifeMs: number;
  /** Signs JWTs; jwksOf makes the set that a TrustBundle carries. */
  readonly jwtKeys: readonly JwtKey[];
  stop(): Promise<void>;
}

export async function startFakeController(port = 0): Promise<FakeController> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const root = await X509CertificateGenerator.createSelfSigned({
    keys,
    name: "CN=test root",
    signingAlgorithm: algorithm,
    notBefore: new Date(Date.now() - 300_000),
    notAfter: new Date(Date.now() + 3_600_000),
    extensions: [new BasicConstraintsExtension(true, 1, true)],
  });
  const sign = async (publicKey: CryptoKey, san: string, lifeMs: number): Promise<X509Certificate> =>
    X509CertificateGenerator.create({
      publicKey,
      signingKey: keys.privateKey,
      issuer: root.subject,
      signingAlgorithm: algorithm,
      notBefore: new Date(Date.now() - 300_000),
      notAfter: new Date(Date.now() + lifeMs),
      extensions: [
        new SubjectAlternativeNameExtension([
          san.includes("://") ? { type: "url", value: san } : { type: "dns", value: san },
        ]),
        new ExtendedKeyUsageExtension(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]),
      ],
    });
  const rootsPem = root.toString("pem");
  const serverKeys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const serverChain = (await sign(serverKeys.publicKey, "fairlead-controller", 3_600_000)).toString("pem");
  const serverKey = createPrivateKey({
    key: Buffer.from(await crypto.subtle.exportKey("pkcs8", serverKeys.privateKey)),
    format: "der",
    type: "pkcs8",
  }).export({ format: "pem", type: "pkcs8" });

  const open = new Set<Stream>();
  const resources = new Map<string, MeshResource>();
  const requests: DeltaDiscoveryRequest[] = [];
  const reports: ReportRequest[] = [];
  const issued: string[] = [];
  let nonce = 0;
  const respond = (
    stream: Stream,
    typeUrl: string,
    changed: readonly MeshResource[],
    removed: readonly string[],
  ): void => {
    stream.write(
      DeltaDiscoveryResponse.fromPartial({
        typeUrl,
        systemVersionInfo: "1",
        nonce: String(++nonce),
        resources: changed.map((r) => ({
          name: resourceName(r),
          version: versionOf(r),
          resource: { typeUrl, value: Buffer.from(encodeResource(r)) },
        })),
        removedResources: [...removed],
      }),
    );
  };
  const signCsr = async (csrPem: string, san: string, lifeMs: number): Promise<string> =>
    (await sign(await new Pkcs10CertificateRequest(csrPem).publicKey.export(), san, lifeMs)).toString("pem");

  const controller = {
    refuseCertificates: false,
    discoveryHeld: Promise.resolve() as Promise<unknown>,
    svidLifeMs: 3_600_000,
    jwtKeys: await firstJwtKeys(Date.now()),
  };
  const server = new Server();
  server.addService(AggregatedDiscoveryServiceService, {
    deltaAggregatedResources(stream: Stream) {
      open.add(stream);
      stream.on("close", () => open.delete(stream));
      stream.on("error", () => open.delete(stream));
      stream.on("end", () => stream.end());
      stream.on("data", async (request: DeltaDiscoveryRequest) => {
        requests.push(request);
        if (request.responseNonce !== "") return;
        await controller.discoveryHeld;
        const all = [...resources.values()].filter((r) => typeUrlOf(r.kind) === request.typeUrl);
        const known = request.initialResourceVersions;
        const changed = all.filter((r) => known[resourceName(r)] !== versionOf(r));
        const names = new Set(all.map(resourceName));
        respond(
          stream,
          request.typeUrl,
          changed,
          Object.keys(known).filter((name) => !names.has(name)),
        );
      });
    },
  });
  const node: NodeServiceServer = {
    join(call, callback) {
      if (call.request.token !== "good" && call.request.token !== "")
        return callback({ code: status.PERMISSION_DENIED, details: "join token: not known or used already" });
      signCsr(call.request.csrPem, `spiffe://cluster.local/node/${call.request.node}`, 3_600_000).then(
        (chainPem) => callback(null, { chainPem, rootsPem }),
        (error: Error) => callback({ code: status.INTERNAL, details: error.message }),
      );
    },
    renew(call, callback) {
      signCsr(call.request.csrPem, `spiffe://cluster.local/node/${call.request.node}`, 3_600_000).then(
        (chainPem) => callback(null, { chainPem, rootsPem }),
        (error: Error) => callback({ code: status.INTERNAL, details: error.message }),
      );
    },
    report(call, callback) {
      reports.push(call.request);
      callback(null, {});
    },
  };
  server.addService(NodeServiceService, node);
  const certificates: CertificateServiceServer = {
    issue(call, callback) {
      if (controller.refuseCertificates)
        return callback({ code: status.UNAVAILABLE, details: "no certificates today" });
      issued.push(call.request.identity);
      const notAfterMs = Date.now() + controller.svidLifeMs;
      signCsr(call.request.csrPem, call.request.identity, controller.svidLifeMs).then(
        (chainPem) => callback(null, { chainPem, notAfterMs, trustGeneration: 1 }),
        (error: Error) => callback({ code: status.INTERNAL, details: error.message }),
      );
    },
    issueJwt(call, callback) {
      const { identity: subject, audience } = call.request;
      callback(
        null,
        new JwtSigner(controller.jwtKeys).sign({ subject, audience, issuedMs: Date.now(), lifeMs: 300_000 }),
      );
    },
  };
  server.addService(CertificateServiceService, certificates);
  const tls = ServerCredentials.createSsl(
    Buffer.from(rootsPem),
    [{ private_key: Buffer.from(serverKey), cert_chain: Buffer.from(serverChain) }],
    false,
  );
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`127.0.0.1:${port}`, tls, (error, at) => (error === null ? resolve(at) : reject(error))),
  );
  return Object.assign(controller, {
    port: bound,
    rootsPem,
    requests,
    reports,
    issued,
    resources,
    streams: () => open.size,
    push(changed: readonly MeshResource[], removed: readonly { typeUrl: string; name: string }[] = []) {
      for (const r of changed) resources.set(`${r.kind}/${resourceName(r)}`, r);
      for (const { typeUrl, name } of removed) resources.delete(`${typeUrl.split(".").at(-1)}/${name}`);
      for (const typeUrl of Object.values(codecs).map((c) => c.typeUrl)) {
        const mine = changed.filter((r) => typeUrlOf(r.kind) === typeUrl);
        const gone = removed.filter((r) => r.typeUrl === typeUrl).map((r) => r.name);
        if (mine.length + gone.length > 0) for (const stream of open) respond(stream, typeUrl, mine, gone);
      }
    },
    pushRaw(typeUrl: string, name: string, value: Uint8Array) {
      for (const stream of open)
        stream.write(
          DeltaDiscoveryResponse.fromPartial({
            typeUrl,
            nonce: String(++nonce),
            resources: [{ name, version: "raw", resource: { typeUrl, value: Buffer.from(value) } }],
          }),
        );
    },
    async stop() {
      server.forceShutdown();
    },
  });
}

const versionOf = (r: MeshResource): string => createHash("sha256").update(encodeResource(r)).digest("base64");
