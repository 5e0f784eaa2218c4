// Agents of a model that follow the rules of incremental xDS, slow and quick ones, against resources that come and go.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { DeltaDiscoveryRequest, DeltaDiscoveryResponse } from "../../agent/api/discovery.gen.ts";
import { decodeRequest } from "./request.ts";
import { encodeResponse, type Response } from "./response.ts";
import { Snapshot, TypeSnapshot } from "./snapshot.ts";
import { maxResponseBytes, Subscription } from "./subscription.ts";

const typeUrl = "type.googleapis.com/fairlead.v1.Workload";
const bytesOf = (content: string, size = 0): Uint8Array => Buffer.from(content.padEnd(size, "."));

/** What an agent does, by the book: keeps what it is sent, names it when it comes back, answers each response once. */
class Agent {
  readonly snapshot: Snapshot;
  readonly has = new Map<string, { readonly version: string; readonly content: string }>();
  readonly refused = new Set<string>();
  subscription = new Subscription(typeUrl);
  open: DeltaDiscoveryResponse | undefined;
  isFresh = false;
  #nonces = 0;
  readonly newNonce = (): string => `${++this.#nonces}`;

  constructor(snapshot: Snapshot) {
    this.snapshot = snapshot;
  }
  connect(names: readonly string[] = []): void {
    this.subscription = new Subscription(typeUrl);
    this.open = undefined;
    this.isFresh = false;
    const initialResourceVersions = Object.fromEntries([...this.has].map(([name, { version }]) => [name, version]));
    this.#say({ resourceNamesSubscribe: [...names], initialResourceVersions });
  }
  subscribe(...names: readonly string[]): void {
    this.#say({ resourceNamesSubscribe: [...names] });
  }
  /** Takes what comes, if anything may. */
  receive(): DeltaDiscoveryResponse | undefined {
    const response = this.subscription.next(this.newNonce, this.snapshot);
    if (response === undefined) return undefined;
    assert.equal(this.open, undefined, "one response is open at a time");
    const bytes = encodeResponse(response);
    assert.ok(bytes.length < maxResponseBytes + 1_000 || response.resources.length <= 1);
    const read = DeltaDiscoveryResponse.decode(bytes);
    this.open = read;
    for (const { name, version, resource } of read.resources)
      this.has.set(name, { version, content: Buffer.from(resource?.value ?? []).toString() });
    for (const name of read.removedResources) this.has.delete(name);
    if (read.systemVersionInfo !== "") this.isFresh = true;
    return read;
  }
  answer(refusal = ""): void {
    if (this.open === undefined) return;
    const errorDetail = refusal === "" ? undefined : { code: 3, message: refusal };
    this.#say({ responseNonce: this.open.nonce, ...(errorDetail && { errorDetail }) });
    this.open = undefined;
  }
  /** Takes and answers until nothing comes. */
  settle(): void {
    for (let turns = 0; turns < 100; turns++) {
      this.answer();
      if (this.receive() === undefined) return;
    }
    assert.fail("it never ends");
  }
  #say(message: Partial<DeltaDiscoveryRequest>): void {
    const bytes = DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.create({ typeUrl, ...message })).finish();
    this.subscription.request(decodeRequest(Buffer.from(bytes)), this.snapshot);
  }
}

const name = fc.constantFrom("a", "b", "c", "d", "e");
const step = fc.oneof(
  fc.record({ do: fc.constant("put" as const), name, content: fc.constantFrom("1", "2", "3") }),
  fc.record({ do: fc.constant("remove" as const), name }),
  fc.record({ do: fc.constantFrom("receive", "answer", "connect") }),
  fc.record({ do: fc.constant("ask" as const), name }),
);

function play(
  snapshot: Snapshot,
  agent: Agent,
  one: { readonly do: string; readonly name?: string; readonly content?: string },
): void {
  const put = (bytes: Uint8Array | undefined): void => void snapshot.apply([{ typeUrl, name: one.name ?? "", bytes }]);
  if (one.do === "put") put(bytesOf(one.content ?? ""));
  if (one.do === "remove") put(undefined);
  if (one.do === "receive") agent.receive();
  if (one.do === "answer") agent.answer();
  if (one.do === "connect") agent.connect();
  if (one.do === "ask") agent.subscribe(one.name ?? "");
}
const contentOf = (snapshot: Snapshot): ReadonlyMap<string, string> =>
  new Map(
    [...(snapshot.type(typeUrl)?.names() ?? [])].map((one) => [one, snapshot.type(typeUrl)?.get(one)?.version ?? ""]),
  );
const versionsOf = (agent: Agent): ReadonlyMap<string, string> =>
  new Map([...agent.has].map(([one, { version }]) => [one, version]));

test("[DIS-1] whatever is changed, missed, asked again and cut off, each of several agents ends with exactly what there is", () => {
  fc.assert(
    fc.property(fc.array(fc.record({ who: fc.nat(2), one: step }), { maxLength: 90 }), (steps) => {
      const snapshot = new Snapshot([typeUrl]);
      snapshot.apply([]);
      const agents = [0, 1, 2].map(() => new Agent(snapshot));
      for (const agent of agents) agent.connect();
      for (const { who, one } of steps) {
        play(snapshot, agents[who] as Agent, one);
        // Nothing counts as accepted that the agent does not have.
        for (const agent of agents)
          for (const of of "abcde")
            if (agent.subscription.isCurrent(of, snapshot))
              assert.equal(agent.has.get(of)?.version, snapshot.type(typeUrl)?.get(of)?.version);
      }
      for (const agent of agents) {
        agent.settle();
        assert.deepEqual(new Map([...versionsOf(agent)].sort()), new Map([...contentOf(snapshot)].sort()));
        assert.ok(agent.isFresh, "and knows that it is");
        for (const of of snapshot.type(typeUrl)?.names() ?? [])
          assert.ok(agent.subscription.isCurrent(of, snapshot), `${of} is accepted`);
      }
    }),
    { numRuns: 500 },
  );
});

test("[PRF-3] a change is put into one response for all agents that wait for it, and no nonce comes twice", () => {
  const snapshot = new Snapshot([typeUrl]);
  const put = (name: string, content: string): void =>
    void snapshot.apply([{ typeUrl, name, bytes: bytesOf(content) }]);
  put("a", "1");
  const agents = [0, 1].map(() => new Agent(snapshot));
  const next = (who: number): Response | undefined => {
    const { subscription, newNonce } = agents[who] as Agent;
    return subscription.next(newNonce, snapshot);
  };
  for (const agent of agents) agent.connect();
  assert.equal(next(0), next(1), "the first state, too");
  for (const agent of agents) {
    agent.connect();
    agent.settle();
  }
  put("a", "2");
  put("b", "1");
  const response = next(0);
  assert.deepEqual(
    response?.resources.map(({ name }) => name),
    ["a", "b"],
  );
  assert.equal(next(1), response);
  const bytes = encodeResponse(response as Response);
  assert.equal(encodeResponse(response as Response), bytes, "the very bytes");
  assert.equal(next(1), undefined, "it is not answered yet");

  const seen = new Set<string>();
  const one = new Agent(snapshot);
  one.connect();
  for (let i = 0; i < 50; i++) {
    if (i % 3 === 0) put("c", `${i}`);
    if (i % 4 === 0) one.subscribe("b");
    if (i % 5 === 0) snapshot.apply([{ typeUrl, name: "d", bytes: i % 10 === 0 ? bytesOf("1") : undefined }]);
    const read = one.receive();
    if (read !== undefined) assert.ok(!seen.has(read.nonce), read.nonce);
    seen.add(read?.nonce ?? "");
    one.answer();
  }
  assert.ok(seen.size > 20);
});

test("[DIS-1] an agent that follows single names is told of these alone", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const snapshot = new Snapshot([typeUrl]);
      snapshot.apply([]);
      const agent = new Agent(snapshot);
      const wanted = new Set(["a", "b"]);
      agent.connect([...wanted]);
      for (const one of steps) {
        if (one.do === "connect") continue;
        if (one.do === "ask") wanted.add(one.name);
        play(snapshot, agent, one);
      }
      agent.settle();
      const there = [...contentOf(snapshot)].filter(([of]) => wanted.has(of)).sort();
      assert.deepEqual([...versionsOf(agent)].sort(), there);
    }),
  );
});

test("[DIS-1] a slow agent costs no queue: it gets the newest of each in one piece", () => {
  const snapshot = new Snapshot([typeUrl]);
  snapshot.apply([]);
  const agent = new Agent(snapshot);
  agent.connect();
  agent.receive();
  for (let i = 0; i < 10_000; i++) snapshot.apply([{ typeUrl, name: `n${i % 3}`, bytes: bytesOf(`${i}`) }]);
  assert.equal(agent.receive(), undefined, "nothing comes before the answer");
  agent.answer();
  assert.deepEqual(
    agent
      .receive()
      ?.resources.map((r) => r.name)
      .sort(),
    ["n0", "n1", "n2"],
  );
  agent.answer();
  assert.equal(agent.receive(), undefined);
});

test("[DIS-1] a whole state comes in parts, each after the answer to the one before, and what changes meanwhile is not lost", () => {
  const snapshot = new Snapshot([typeUrl]);
  snapshot.apply(Array.from({ length: 40 }, (_, i) => ({ typeUrl, name: `n${i}`, bytes: bytesOf(`${i}`, 10_000) })));
  const agent = new Agent(snapshot);
  agent.connect();
  const first = agent.receive();
  assert.equal(first?.systemVersionInfo, "", "more is to come");
  snapshot.apply([
    { typeUrl, name: "n0", bytes: bytesOf("new") },
    { typeUrl, name: "n1", bytes: undefined },
    { typeUrl, name: "n39", bytes: undefined },
  ]);
  agent.settle();
  assert.deepEqual(versionsOf(agent).size, 38);
  assert.equal(agent.has.get("n0")?.content, "new");
});

test("[DIS-8] an agent that slept through more removals than are remembered is told to connect anew, and then gets the difference", () => {
  const snapshot = new Snapshot([typeUrl]);
  snapshot.apply([
    { typeUrl, name: "stays", bytes: bytesOf("1") },
    { typeUrl, name: "goes", bytes: bytesOf("1") },
  ]);
  const [slow, quick] = [new Agent(snapshot), new Agent(snapshot)];
  for (const agent of [slow, quick]) agent.connect();
  slow.receive();
  snapshot.apply([{ typeUrl, name: "goes", bytes: undefined }]);
  for (let i = 0; i < 25_000; i++) {
    snapshot.apply([{ typeUrl, name: `n${i}`, bytes: bytesOf("1") }]);
    snapshot.apply([{ typeUrl, name: `n${i}`, bytes: undefined }]);
    if (i % 1_000 === 0) quick.settle();
  }
  assert.equal(quick.subscription.isTooFarBehind(snapshot), false);
  assert.equal(slow.subscription.isTooFarBehind(snapshot), true);
  slow.connect();
  slow.settle();
  assert.deepEqual([...slow.has.keys()], ["stays"]);
  assert.equal(slow.subscription.isTooFarBehind(snapshot), false);
});

test("[DIS-9] what an agent refuses is not current until it is something else", () => {
  const snapshot = new Snapshot([typeUrl]);
  snapshot.apply([
    { typeUrl, name: "bad", bytes: bytesOf("1") },
    { typeUrl, name: "good", bytes: bytesOf("1") },
  ]);
  const agent = new Agent(snapshot);
  agent.connect();
  agent.receive();
  agent.answer("bad: is odd");
  assert.deepEqual(
    ["bad", "good"].map((of) => agent.subscription.isCurrent(of, snapshot)),
    [false, true],
  );
  assert.match(agent.subscription.refusal("bad") ?? "", /odd/);
  snapshot.apply([{ typeUrl, name: "bad", bytes: bytesOf("2") }]);
  agent.settle();
  assert.equal(agent.subscription.isCurrent("bad", snapshot), true);
  assert.equal(agent.subscription.refusal("bad"), undefined);
});

test("the order of changes stays short however often the same things change", () => {
  const type = new TypeSnapshot();
  for (let i = 0; i < 50_000; i++) type.put(typeUrl, `n${i % 5}`, bytesOf(`${i}`));
  assert.deepEqual(
    [...type.after(0)].map((change) => change.position),
    [49_996, 49_997, 49_998, 49_999, 50_000],
  );
  assert.deepEqual(
    [...type.after(49_999)].map((change) => change.name),
    ["n4"],
  );
  assert.equal(type.oldest, 0, "nothing was removed");
});

test("[PRF-3] agents that come back with one state are compared with what there is once, until that changes", () => {
  const snapshot = new Snapshot([typeUrl]);
  const put = (name: string, content: string): void =>
    void snapshot.apply([{ typeUrl, name, bytes: bytesOf(content) }]);
  for (const name of ["a", "b", "c"]) put(name, "1");
  const type = snapshot.type(typeUrl) as TypeSnapshot;
  const versionOf = (name: string): string => type.get(name)?.version ?? "";
  const has = (versions: Readonly<Record<string, string>>) =>
    decodeRequest(
      Buffer.from(
        DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.create({ initialResourceVersions: versions })).finish(),
      ),
    ).initial;
  const state = { a: versionOf("a"), b: "old", gone: "1" };
  const first = type.differing(has(state));
  assert.deepEqual([...first].sort(), ["b", "c", "gone"]);
  assert.equal(type.differing(has(state)), first, "the very answer");
  assert.deepEqual(type.differing(has({ ...state, gone: "2", b: versionOf("b") })), ["gone", "c"]);
  put("a", "2");
  assert.deepEqual([...type.differing(has(state))].sort(), ["a", "b", "c", "gone"]);
});
