// Discovery streams of Istio's types against a model of a client: any order of subscriptions, changes, acknowledgements and nonsense. What a
// client is told, put together, is what it asked for, as it is now.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import fc from "fast-check";
import { DeltaDiscoveryRequest } from "../../agent/api/discovery.gen.ts";
import type { NodeName } from "../../agent/api/names.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { type IstioSource, IstioStream, type IstioType } from "./istio-stream.ts";
import { type DiscoveryRequest, decodeRequest } from "./request.ts";
import type { Response, Versioned } from "./response.ts";
import { TypeSnapshot } from "./snapshot.ts";
import type { DiscoveryCall } from "./stream.ts";

const typeUrl = "type.googleapis.com/istio.workload.Address";
const otherUrl = "type.googleapis.com/istio.security.Authorization";
const quietMs = 50;

/** Workloads "w0".."w4", each also asked for by its address "n/0".."n/4". */
class Source implements IstioSource {
  isReady = true;
  generation = 1;
  readonly resources = new TypeSnapshot();
  readonly #listeners = new Set<() => void>();
  readonly #type: IstioType = {
    resources: this.resources,
    resolve: (name) => {
      const own = name.startsWith("n/") ? `w${name.slice(2)}` : name;
      return this.resources.get(own) === undefined ? [] : [own];
    },
    ofNode: () => [],
    named: () => undefined,
  };
  type(url: string): IstioType | undefined {
    return url === typeUrl ? this.#type : undefined;
  }
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
  put(name: string, content: string | undefined): void {
    this.resources.put(typeUrl, name, content === undefined ? undefined : Buffer.from(content));
    this.changed();
  }
  changed(): void {
    this.generation++;
    for (const listener of this.#listeners) listener();
  }
  get listeners(): number {
    return this.#listeners.size;
  }
}

function connect(source: Source) {
  const clock = createFakeClock();
  const written: Response[] = [];
  const events = new EventEmitter();
  let ends = 0;
  const call = Object.assign(events, {
    write: (response: Response) => written.push(response) > 0,
    end: () => void ends++,
  }) as unknown as DiscoveryCall;
  let ended = 0;
  const stream = new IstioStream({
    ...{ node: "node1" as NodeName, call, source, clock, log: silentLogger },
    ended: () => void ended++,
  });
  const say = (message: Partial<DeltaDiscoveryRequest>): void =>
    void events.emit("data", offTheWire({ typeUrl, ...message }));
  return { clock, written, say, stream, events, ends: () => ends, ended: () => ended };
}

/** A client by the book: keeps what it is sent, and answers each response once. */
class Client {
  readonly source: Source;
  readonly has = new Map<string, Versioned>();
  /** Names that it waits for an answer to. */
  readonly waits = new Set<string>();
  names = new Set<string>();
  isWildcard: boolean;
  readonly #nonces = new Set<string>();
  readonly #connection;
  #read = 0;
  #open: string | undefined;

  constructor(source: Source, isWildcard: boolean) {
    this.source = source;
    this.isWildcard = isWildcard;
    this.#connection = connect(source);
    const resourceNamesSubscribe = isWildcard ? [] : ["w0"];
    if (!isWildcard) this.#ask("w0");
    this.#connection.say({ resourceNamesSubscribe });
    this.receive();
  }
  subscribe(name: string): void {
    this.#ask(name);
    this.#connection.say({ resourceNamesSubscribe: [name] });
    this.receive();
  }
  unsubscribe(name: string): void {
    this.names.delete(name);
    this.waits.delete(name);
    this.#connection.say({ resourceNamesUnsubscribe: [name] });
    this.receive();
  }
  answer(isRefusal: boolean): void {
    if (this.#open === undefined) return;
    const responseNonce = this.#open;
    this.#open = undefined;
    this.#connection.say({ responseNonce, ...(isRefusal ? { errorDetail: { code: 3, message: "no" } } : {}) });
    this.receive();
  }
  /** An answer to something else. */
  mumble(nonce: string): void {
    this.#connection.say({ responseNonce: nonce });
    this.receive();
  }
  receive(): void {
    this.#connection.clock.advance(quietMs);
    for (const response of this.#connection.written.slice(this.#read)) {
      this.#read++;
      assert.equal(this.#open, undefined, "one response of a type is open at a time");
      assert.ok(!this.#nonces.has(response.nonce), "no nonce twice");
      this.#nonces.add(response.nonce);
      this.#open = response.nonce;
      for (const resource of response.resources) {
        this.has.set(resource.name, resource);
        for (const name of this.waits) if (this.#stands(name, resource.name)) this.waits.delete(name);
      }
      for (const name of response.removed) {
        this.has.delete(name);
        this.waits.delete(name);
      }
    }
  }
  settle(): void {
    for (let turns = 0; this.#open !== undefined; turns++) {
      assert.ok(turns < 50, "it never ends");
      this.answer(false);
    }
  }
  /** What it is to have. */
  wanted(): ReadonlyMap<string, Versioned> {
    const names = this.isWildcard ? [...this.source.resources.names()] : [];
    for (const name of this.names) names.push(name.startsWith("n/") ? `w${name.slice(2)}` : name);
    return new Map(
      names.flatMap((name) => {
        const resource = this.source.resources.get(name);
        return resource === undefined ? [] : [[name, resource] as const];
      }),
    );
  }
  #ask(name: string): void {
    this.names.add(name);
    this.waits.add(name);
  }
  #stands(asked: string, name: string): boolean {
    return asked === name || `w${asked.slice(2)}` === name;
  }
}

const offTheWire = (message: Partial<DeltaDiscoveryRequest>): DiscoveryRequest =>
  decodeRequest(Buffer.from(DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.create(message)).finish()));
const number = fc.nat(4);
const asked = fc.tuple(fc.constantFrom("w", "n/"), number).map(([kind, n]) => `${kind}${n}`);
const steps = fc.oneof(
  asked.map((name) => (client: Client) => client.subscribe(name)),
  asked.map((name) => (client: Client) => client.unsubscribe(name)),
  fc
    .tuple(number, fc.option(fc.constantFrom("1", "2", "3"), { nil: undefined }))
    .map(([n, content]) => (client: Client) => {
      client.source.put(`w${n}`, content);
      client.receive();
    }),
  fc.boolean().map((isRefusal) => (client: Client) => client.answer(isRefusal)),
  fc.constantFrom("0", "99", "x", "__proto__").map((nonce) => (client: Client) => client.mumble(nonce)),
);

test("[DIS-11] generated clients have in the end what they asked for, as it is now, and an answer to every name", () => {
  fc.assert(
    fc.property(fc.boolean(), fc.array(steps, { maxLength: 40 }), (isWildcard, all) => {
      const source = new Source();
      for (const n of [0, 1, 2]) source.put(`w${n}`, "0");
      const client = new Client(source, isWildcard);
      for (const step of all) step(client);
      client.settle();
      const wanted = client.wanted();
      assert.deepEqual([...client.has.keys()].sort(), [...wanted.keys()].sort());
      for (const [name, { version }] of wanted) assert.equal(client.has.get(name)?.version, version, name);
      assert.deepEqual([...client.waits], []);
    }),
    { numRuns: 1_000 },
  );
});

test("[DIS-11] a client that comes back is told what has changed and what has gone since, and nothing else", () => {
  const contents = fc.array(fc.option(fc.constantFrom("1", "2"), { nil: undefined }), { minLength: 5, maxLength: 5 });
  fc.assert(
    fc.property(contents, contents, (before, after) => {
      const source = new Source();
      for (const [n, content] of before.entries()) if (content !== undefined) source.put(`w${n}`, content);
      const has = new Map(
        [...source.resources.names()].map((name) => [name, source.resources.get(name)?.version ?? ""]),
      );
      for (const [n, content] of after.entries()) source.put(`w${n}`, content);
      const { say, written } = connect(source);
      say({ initialResourceVersions: Object.fromEntries(has) });
      const [first] = written;
      assert.equal(written.length, 1);
      const changed = after.flatMap((content, n) => (content !== undefined && content !== before[n] ? [`w${n}`] : []));
      const gone = after.flatMap((content, n) => (content === undefined && before[n] !== undefined ? [`w${n}`] : []));
      assert.deepEqual(first?.resources.map(({ name }) => name).sort(), changed);
      assert.deepEqual([...(first?.removed ?? [])].sort(), gone);
    }),
    { numRuns: 500 },
  );
});

test("[DIS-11] generated nonsense never throws, is answered within bounds, and leaves nothing behind", () => {
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("*", "", "__proto__", "constructor", "w0", "n/0"),
  );
  const message = fc.record({
    typeUrl: fc.oneof(fc.constantFrom(typeUrl, otherUrl, ""), text),
    resourceNamesSubscribe: fc.array(text, { maxLength: 5 }),
    resourceNamesUnsubscribe: fc.array(text, { maxLength: 5 }),
    initialResourceVersions: fc.dictionary(text, text, { maxKeys: 3 }),
    responseNonce: fc.oneof(fc.constantFrom("", "1", "2", "3"), text),
    errorDetail: fc.option(fc.record({ code: fc.integer(), message: text }), { nil: undefined }),
    node: fc.option(fc.record({ id: text, cluster: text }), { nil: undefined }),
  });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 40 }), (messages) => {
      const source = new Source();
      source.put("w0", "0");
      const { say, written, stream, clock, ends, ended } = connect(source);
      const open = new Map<string, string>();
      let read = 0;
      for (const one of messages) {
        // As it comes off the wire.
        const bytes = DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.fromPartial(one)).finish();
        const sent = DeltaDiscoveryRequest.decode(bytes);
        if (open.get(sent.typeUrl) === sent.responseNonce) open.delete(sent.typeUrl);
        say(sent);
        source.changed();
        clock.advance(quietMs);
        for (const response of written.slice(read)) {
          read++;
          assert.ok(!open.has(response.typeUrl), "one response of a type is open at a time");
          open.set(response.typeUrl, response.nonce);
          assert.ok(response.removed.length <= 5 * messages.length + 3);
          assert.equal(new Set(response.removed).size, response.removed.length);
        }
        assert.ok(open.size <= 16, "types are bounded");
      }
      stream.end();
      stream.end();
      assert.deepEqual([ends(), ended(), source.listeners, clock.pending], [1, 1, 0, 0]);
    }),
    { numRuns: 500 },
  );
});
