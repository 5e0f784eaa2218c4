// Limits of connections where a data thread carries them byte for byte: what native is asked, and what is told of a refusal.
import assert from "node:assert/strict";
import { test } from "node:test";
import { handedSocket } from "../test/kit/handed.ts";
import { localPod, mesh, service, workload } from "../test/kit/mesh.ts";
import { defaultPolicy, noLimits } from "./api/http-policy.ts";
import { systemClock } from "./base/clock.ts";
import { err } from "./base/result.ts";
import { Carried } from "./carried.ts";
import type { LaneSockets } from "./forward/dial.ts";
import type { DialParams } from "./native-calls.ts";
import type { Replica } from "./replica.ts";
import type { HandedEnd, HandedSocket } from "./threads.ts";

const policy = { ...defaultPolicy, limits: { ...noLimits, maxConnections: 2, maxPending: 1 }, sources: ["shop/few"] };
const state = mesh({
  services: [service("shop", "web", "10.96.0.7", [{ port: 80, nodePort: 0, protocol: "http" }])],
  routings: [{ namespace: "shop", name: "web", policy, routes: [] }],
});
const pod = localPod(workload("edge", "client", "10.244.1.5"));
const replica = { state, knowledge: "fresh", byName: () => pod, byAddress: () => undefined } as unknown as Replica;
const handed = handedSocket();

/** What is dialled for a connection that native refuses, and what is then told. */
async function refused(
  more: Partial<HandedSocket>,
): Promise<{ asked: DialParams; told: HandedEnd; wasReset: boolean }> {
  let asked: DialParams | undefined;
  let told: HandedEnd | undefined;
  let wasReset = false;
  const fault = { code: "connection_limit", message: "dial: connection_limit by shop/few", policy: "shop/few" };
  const dial = async (params: DialParams) => {
    asked = params;
    return err(fault);
  };
  const sockets = { dial } as unknown as LaneSockets;
  const ended = (end: HandedEnd): void => {
    told = end;
  };
  const carried = new Carried({ replica, sockets, clock: systemClock, ended });
  const reset = (): void => {
    wasReset = true;
  };
  const client = { on: () => client, once: () => client, reset, destroyed: false };
  await new Promise<void>((over) => carried.taker({ ...handed, ...more }, over)(() => client as never));
  return { asked: asked as DialParams, told: told as unknown as HandedEnd, wasReset };
}

test("[TRF-6] a connection that a data thread carries counts among those to its service; beyond the limit it is reset, and its record names the policy", async () => {
  const { asked, told, wasReset } = await refused({});
  assert.deepEqual(asked.limits, { key: "edge>shop/web:80", maxConnections: 2, maxPending: 1, policy: "shop/few" });
  assert.deepEqual([told.reason, told.policy, told.readyUs, wasReset], ["connection_limit", "shop/few", 0, true]);
});

test("[TRF-6] limits are the client's node's matter: what arrives, or goes to no service, has none", async () => {
  assert.equal((await refused({ direction: "inbound" })).asked.limits, undefined);
  assert.equal((await refused({ original: { ip: "192.0.2.1", port: 80 } })).asked.limits, undefined);
});
