// Who calls by certificate: over real TLS, several connections to one server, each read once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TLSSocket } from "node:tls";
import { credentials, type ServerUnaryCall, type sendUnaryData } from "@grpc/grpc-js";
import {
  type JoinRequest,
  type JoinResponse,
  NodeServiceClient,
  type NodeServiceServer,
  NodeServiceService,
} from "../../agent/api/mesh.gen.ts";
import { parseTrustDomain } from "../../agent/api/names.ts";
import { named } from "../../test/kit/node-agent.ts";
import { signLeaf } from "../issue/leaf.ts";
import { loadSigner, makeIntermediate, makeKey, makeRoot, publicKeyOf } from "../issue/pki.ts";
import { callingNode } from "./caller.ts";
import { createGrpcServer } from "./server.ts";

const trustDomain = parseTrustDomain("cluster.local");
assert.ok(trustDomain.ok);

test("[IDN-3] the node is the one of the connection's own certificate, which is read once for each connection", async (t) => {
  const root = await makeRoot("cluster.local", Date.now());
  const issuer = await makeIntermediate(await loadSigner(root), "cluster.local", Date.now());
  const signer = await loadSigner(issuer);
  const keyed = async (uri: string) => {
    const keyPem = await makeKey("p-256");
    const plan = {
      uri,
      dns: ["fairlead-controller"],
      notBeforeMs: Date.now() - 60_000,
      notAfterMs: Date.now() + 600_000,
    };
    const leaf = await signLeaf(signer, { ...plan, publicKey: await publicKeyOf(keyPem) });
    return { certPem: leaf + issuer.certPem, keyPem };
  };
  const { server, listen, close } = createGrpcServer({
    ...(await keyed("spiffe://cluster.local/controller")),
    clientRootsPem: [root.certPem],
  });
  const answer = (call: ServerUnaryCall<JoinRequest, JoinResponse>, done: sendUnaryData<JoinResponse>): void => {
    const node = callingNode(call, [trustDomain.value]);
    done(null, { chainPem: node.ok ? node.value : node.error.message, rootsPem: "" });
  };
  const service: NodeServiceServer = { join: answer, renew: answer, report: (_, done) => done(null, {}) };
  server.addService(NodeServiceService, service);
  const port = await listen("127.0.0.1:0");
  t.after(() => close(AbortSignal.abort()));
  const read = t.mock.method(TLSSocket.prototype, "getPeerCertificate");
  const roots = Buffer.from(root.certPem);
  const connect = async (uri: string | undefined) => {
    const own = uri === undefined ? undefined : await keyed(uri);
    const tls =
      own === undefined
        ? credentials.createSsl(roots)
        : credentials.createSsl(roots, Buffer.from(own.keyPem), Buffer.from(own.certPem));
    const client = new NodeServiceClient(`127.0.0.1:${port}`, tls, { ...named, "grpc.use_local_subchannel_pool": 1 });
    t.after(() => client.close());
    return () =>
      new Promise<string>((resolve, reject) =>
        client.renew({ node: "", csrPem: "", token: "" }, (error, response) =>
          error === null ? resolve(response.chainPem) : reject(error),
        ),
      );
  };
  const expected = new Map([
    ["spiffe://cluster.local/node/n1", "n1"],
    ["spiffe://cluster.local/node/n2", "n2"],
    ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/web is not a node of this mesh"],
    ["spiffe://elsewhere.org/node/n1", "spiffe://elsewhere.org/node/n1 is not a node of this mesh"],
    [undefined, "no valid node credential: join with a token first"],
  ]);
  const callers = await Promise.all([...expected].map(async ([uri, said]) => ({ ask: await connect(uri), said })));
  for (let round = 0; round < 3; round++) for (const { ask, said } of callers) assert.equal(await ask(), said);
  const reads = (): number => read.mock.calls.filter(({ stack }) => stack.stack?.includes("getAuthContext")).length;
  assert.equal(reads(), 4, "with each first call of a connection that has shown one");
});
