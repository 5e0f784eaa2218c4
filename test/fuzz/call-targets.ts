// The calls of agents to a real controller over gRPC: joining without a credential, and what a node may ask for. Any bytes as
// the message; the answer must be one of those that are meant, and the controller must go on.
import assert from "node:assert/strict";
import { Client, credentials, type ServiceError, status } from "@grpc/grpc-js";
import { startController, type TestController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { type FuzzTarget, shape } from "./target.ts";

const methods = [
  "/fairlead.v1.NodeService/Join",
  "/fairlead.v1.NodeService/Renew",
  "/fairlead.v1.NodeService/Report",
  "/fairlead.v1.CertificateService/Issue",
];
/** INTERNAL is the library's answer to a message that it cannot decode. UNAVAILABLE and UNKNOWN would be a handler that threw. */
const meant: ReadonlySet<number> = new Set([
  status.OK,
  status.INVALID_ARGUMENT,
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.INTERNAL,
]);

interface World {
  readonly controller: TestController;
  /** Without and with the credential of the node n1. */
  readonly clients: readonly [Client, Client];
}
let world: Promise<World> | undefined;

async function start(): Promise<World> {
  const files = {
    "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5", { account: "web" })].join("\n---\n"),
  };
  const controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const roots = Buffer.from(node.rootsPem);
  const { keyPem, chainPem } = node.credential;
  const client = (...keys: readonly Buffer[]): Client =>
    new Client(`127.0.0.1:${controller.ports.grpc}`, credentials.createSsl(roots, keys[0] ?? null, keys[1] ?? null), {
      "grpc.ssl_target_name_override": "fairlead-controller",
    });
  return { controller, clients: [client(), client(Buffer.from(keyPem), Buffer.from(chainPem))] };
}

/** First byte: the method, and whether the node's credential is shown. */
async function calls(input: Buffer): Promise<string> {
  world ??= start();
  const { controller, clients } = await world;
  const first = input[0] ?? 0;
  const method = methods[first % methods.length] ?? "";
  const client = clients[(first >> 4) & 1 ? 1 : 0];
  const asIs = (bytes: Buffer): Buffer => bytes;
  const error = await new Promise<ServiceError | null>((resolve) =>
    client.makeUnaryRequest(method, asIs, asIs, input.subarray(1), { deadline: Date.now() + 60_000 }, (e) =>
      resolve(e),
    ),
  );
  const code = error?.code ?? status.OK;
  assert.ok(meant.has(code), `${method}: ${status[code]} ${error?.details}`);
  assert.ok((error?.details ?? "").length < 600, "a refusal has its bounds");
  assert.equal(controller.process.exitCode, null, "the controller ended");
  return `${method} ${code} ${shape(error?.details ?? "")}`;
}

export const callTargets: readonly FuzzTarget[] = [
  {
    name: "calls",
    maxBytes: 8_192,
    // A certificate for a pod that is not known here waits for it, up to 2 s.
    slowMs: 6_000,
    run: calls,
    close: async () => {
      if (world === undefined) return;
      const { controller, clients } = await world;
      for (const client of clients) client.close();
      await controller[Symbol.asyncDispose]();
      world = undefined;
    },
  },
];
