// Which of the controller's replicas an agent tries, as names and addresses come and go.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { ControllerAddresses } from "./controller-addresses.ts";

const name = { host: "replicas.mesh.svc", port: 15012 };

/** Names are answered with what `says` has at the time; "" breaks off, undefined never answers. */
function looked(says: { now: readonly string[] | "" | undefined }) {
  const clock = createFakeClock();
  let asked = 0;
  const addresses = new ControllerAddresses([name], "n", clock, () => {
    asked += 1;
    if (says.now === undefined) return new Promise(() => {});
    return says.now === "" ? Promise.reject(new Error("no such name")) : Promise.resolve(says.now);
  });
  const again = async (): Promise<void> => {
    await clock.advanceAsync(10_000);
    await turn();
  };
  return { addresses, again, asked: () => asked };
}

test("[DIS-8] a name stands for all replicas: the one after a lost one is tried first, however a name server shuffles them", async () => {
  const says = { now: ["10.0.0.3", "10.0.0.1", "10.0.0.2"] as readonly string[] };
  const { addresses, again } = looked(says);
  assert.equal(addresses.target, "replicas.mesh.svc:15012", "gRPC looks up what is not known yet");
  addresses.refresh();
  await turn();
  const [first = ""] = addresses.all;
  addresses.served(first);
  says.now = ["10.0.0.2", "10.0.0.3", "10.0.0.1"];
  await again();
  assert.equal(addresses.all[0], first);
  const tried = [first];
  for (let i = 0; i < 2; i++) {
    addresses.next();
    tried.push(addresses.all[0] ?? "");
  }
  assert.deepEqual([...tried].sort(), ["10.0.0.1:15012", "10.0.0.2:15012", "10.0.0.3:15012"]);
  assert.equal(addresses.target.split(",").length, 3);
  assert.match(addresses.target, /^ipv4:10\.0\.0\.\d:15012,/);
  addresses.close();
});

test("[DIS-8] the replica that answered comes first until it is lost, though another was to be tried before it", async () => {
  const { addresses } = looked({ now: ["10.0.0.1", "10.0.0.2"] });
  addresses.refresh();
  await turn();
  const [first = "", second = ""] = addresses.all;
  addresses.served(second);
  assert.deepEqual(addresses.all, [second, first]);
  addresses.next();
  assert.deepEqual(addresses.all, [first, second]);
});

test("[DIS-8] [DIS-3] without a name server the last addresses stay, and one question at a time waits for it", async () => {
  const says: { now: readonly string[] | "" | undefined } = { now: ["10.0.0.1", "10.0.0.2"] };
  const { addresses, again, asked } = looked(says);
  addresses.refresh();
  await turn();
  says.now = "";
  await again();
  assert.equal(addresses.all.length, 2);
  says.now = undefined;
  await again();
  const before = asked();
  await again();
  addresses.refresh();
  assert.equal(asked(), before);
  assert.equal(addresses.all.length, 2);
  addresses.close();
});

test("[DIS-8] addresses that stand in the configuration are tried as they are, a second family only by turns", () => {
  const given = [
    { host: "10.0.0.1", port: 1 },
    { host: "fd00::1", port: 2 },
    { host: "10.0.0.2", port: 3 },
  ];
  const addresses = new ControllerAddresses(given, "\0", createFakeClock(), () => Promise.reject(new Error("asked")));
  addresses.refresh();
  assert.equal(addresses.target, "ipv4:10.0.0.1:1,10.0.0.2:3");
  addresses.next();
  assert.equal(addresses.target, "ipv6:[fd00::1]:2");
});
