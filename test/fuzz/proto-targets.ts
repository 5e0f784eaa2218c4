// Discovery from both ends: resources as an agent takes them, and requests as the controller's stream takes them.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { DeltaDiscoveryResponse } from "../../agent/api/discovery.gen.ts";
import * as wire from "../../agent/api/mesh.gen.ts";
import type { NodeName } from "../../agent/api/names.ts";
import { codecs, decodeResource, encodeResource, resourceKinds, resourceName } from "../../agent/api/resources.ts";
import type { Workload } from "../../agent/api/workload.ts";
import { createLogger } from "../../agent/base/log.ts";
import { MeshState } from "../../agent/state/mesh-state.ts";
import { type DiscoveryRequest, decodeRequest } from "../../controller/serve/request.ts";
import { encodeResponse, type Response } from "../../controller/serve/response.ts";
import { Snapshot } from "../../controller/serve/snapshot.ts";
import { AgentStream, type DiscoveryCall } from "../../controller/serve/stream.ts";
import { type FuzzTarget, shape } from "./target.ts";

/** First byte: the kind. What is accepted must survive the wire and the state. */
function resources(input: Buffer): string {
  const kind = resourceKinds[(input[0] ?? 0) % resourceKinds.length] ?? "Workload";
  const decoded = decodeResource(kind, input.subarray(1));
  if (!decoded.ok) {
    assert.ok(decoded.error.length > 0, "a refusal names what is wrong");
    for (const { message } of decoded.error) assert.ok(message.length < 300, "and not at any length");
    const paths = new Set(decoded.error.map((p) => `${p.path.replace(/\d+/g, "n")} ${shape(p.message)}`));
    return `${kind} ${[...paths].sort().slice(0, 3).join()}`;
  }
  const again = decodeResource(kind, encodeResource(decoded.value));
  assert.ok(again.ok, "what was accepted is refused when it is written again");
  assert.deepEqual(again.value, decoded.value);
  const state = new MeshState();
  const name = resourceName(decoded.value);
  const changes = state.apply({ changed: [decoded.value], removed: [] });
  assert.ok(changes.names[kind].has(name) && changes.any);
  assert.deepEqual(
    [...state.snapshot()].find((r) => r.kind === kind && resourceName(r) === name),
    decoded.value,
  );
  assert.ok(state.apply({ changed: [], removed: [{ kind, name }] }).names[kind].has(name));
  return `${kind} ok ${Math.min(8, Object.values(decoded.value.value).filter((v) => `${v}` !== "").length)}`;
}

const quiet = createLogger("error", "fuzz");
const known = [...resourceKinds.map((kind) => codecs[kind].typeUrl), "type.googleapis.com/other"];

/** The controller's side of the stream without gRPC. */
class Call extends EventEmitter {
  readonly written: DeltaDiscoveryResponse[] = [];
  hasEnded = false;
  write(response: Response): boolean {
    this.written.push(DeltaDiscoveryResponse.decode(encodeResponse(response)));
    return true;
  }
  end(): void {
    this.hasEnded = true;
  }
}

/** A workload that says no more than it must. */
function workload(name: string): Workload {
  const fields = { uid: `cluster.local/shop/${name}`, name, namespace: "shop", trustDomain: "cluster.local" };
  const made = codecs.Workload.decode(wire.Workload.encode(wire.Workload.fromPartial(fields)).finish());
  assert.ok(made.ok, JSON.stringify(made));
  return made.value;
}

function fullSnapshot(): Snapshot {
  const snapshot = new Snapshot(known);
  const values = Array.from({ length: 20 }, (_, i) => workload(`w${i}`));
  const { typeUrl, nameOf, encode } = codecs.Workload;
  snapshot.apply(values.map((value) => ({ typeUrl, name: nameOf(value), bytes: encode(value) })));
  return snapshot;
}

/** Messages of an agent, each: type, how the nonce is chosen, two bytes of length, bytes. */
function discovery(input: Buffer): string {
  const call = new Call();
  const events = { sent: 0, nacked: 0, acked: 0, ended: 0 };
  const stream = new AgentStream(
    "n1" as NodeName,
    call as unknown as DiscoveryCall,
    fullSnapshot(),
    {
      sent: () => events.sent++,
      acked: () => events.acked++,
      nacked: () => events.nacked++,
      fellBehind: () => assert.fail("nothing changes"),
      ended: () => events.ended++,
    },
    quiet,
    0,
  );
  let messages = 0;
  for (let at = 0; at + 4 <= input.length && messages < 200; ) {
    const length = input.readUInt16BE(at + 2);
    const bytes = input.subarray(at + 4, at + 4 + length);
    let read: DiscoveryRequest;
    try {
      read = decodeRequest(bytes);
    } catch {
      read = decodeRequest(Buffer.alloc(0));
    }
    const typeUrl = (input[at] ?? 0) === 0xff ? read.typeUrl : (known[(input[at] ?? 0) % known.length] ?? "");
    const isAnswer = ((input[at + 1] ?? 0) & 1) === 1;
    const message = { ...read, typeUrl, ...(isAnswer && { responseNonce: call.written.at(-1)?.nonce ?? "" }) };
    messages++;
    const before = call.written.length;
    call.emit("data", message);
    assert.ok(call.written.length - before <= 33, "one message asks for one answer of each type at most");
    at += 4 + length;
  }
  for (const response of call.written) assert.notEqual(response.nonce, "");
  assert.equal(new Set(call.written.map((r) => r.nonce)).size, call.written.length, "no nonce is used twice");
  assert.equal(stream.waiting.length <= 32, true);
  call.emit("cancelled");
  call.emit("end");
  assert.deepEqual([events.ended, call.hasEnded, events.sent], [1, true, call.written.length]);
  const sizes = call.written.map((r) => `${Math.min(3, r.resources.length)}${Math.min(3, r.removedResources.length)}`);
  return `${sizes.slice(0, 8).join()} ${Math.min(4, events.nacked)} ${Math.min(4, events.acked)} ${stream.waiting.length}`;
}

export const protoTargets: readonly FuzzTarget[] = [
  { name: "resources", maxBytes: 4_096, run: resources },
  { name: "discovery", maxBytes: 4_096, run: discovery },
];
