// gRPC's interop cases with grpc-js: `serve PORT` is the test service, `call HOST:PORT CASE` one case. Messages (grpc/testing/messages.proto) are read
// and written by hand, field by field, so that nothing of that file is needed here.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import {
  Client,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { deadline, methodOf, same } from "../../kit/grpc-bytes.ts";

const SERVICE = "grpc.testing.TestService";

/** Fields by number: bytes and messages as buffers, numbers as numbers, each a list. */
function fieldsOf(bytes: Uint8Array): ReadonlyMap<number, readonly (number | Buffer)[]> {
  const found = new Map<number, (number | Buffer)[]>();
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    const list = found.get(field) ?? [];
    found.set(field, list);
    if (wire === 0) list.push(Number(reader.int64()));
    else if (wire === 2) list.push(Buffer.from(reader.bytes()));
    else reader.skip(wire, field);
  }
  return found;
}
const numberOf = (value: number | Buffer | undefined): number => (typeof value === "number" ? value : 0);
const bytesOf = (value: number | Buffer | undefined): Buffer => (Buffer.isBuffer(value) ? value : Buffer.alloc(0));
function write(...fields: readonly (readonly [number, number | string | Uint8Array])[]): Buffer {
  const writer = new BinaryWriter();
  for (const [field, value] of fields) {
    if (typeof value === "number") writer.uint32((field << 3) | 0).int64(value);
    else if (typeof value === "string") writer.uint32((field << 3) | 2).string(value);
    else writer.uint32((field << 3) | 2).bytes(value);
  }
  return Buffer.from(writer.finish());
}
const payload = (size: number): Buffer => write([2, Buffer.alloc(size)]);

// The server.

const id = randomUUID();
type Call = ServerUnaryCall<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;
/** Metadata of custom_metadata goes back: the text with the head, the bytes with the trailers. */
function echoed(call: Call): Metadata {
  const trailers = new Metadata();
  const head = new Metadata();
  for (const value of call.metadata.get("x-grpc-test-echo-initial")) head.add("x-grpc-test-echo-initial", value);
  for (const value of call.metadata.get("x-grpc-test-echo-trailing-bin"))
    trailers.add("x-grpc-test-echo-trailing-bin", value);
  call.sendMetadata(head);
  return trailers;
}
/** response_status of a request: field 7, code 1, message 2. */
function statusOf(request: ReturnType<typeof fieldsOf>): { code: number; details: string } | undefined {
  const asked = request.get(7)?.[0];
  if (asked === undefined) return undefined;
  const fields = fieldsOf(bytesOf(asked));
  return { code: numberOf(fields.get(1)?.[0]), details: bytesOf(fields.get(2)?.[0]).toString() };
}
const sizesOf = (request: ReturnType<typeof fieldsOf>): number[] =>
  (request.get(2) ?? []).map((p) => numberOf(fieldsOf(bytesOf(p)).get(1)?.[0]));

const method = methodOf(SERVICE);

function unary(call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>): void {
  const request = fieldsOf(call.request);
  const trailers = echoed(call);
  const wanted = statusOf(request);
  if (wanted !== undefined && wanted.code !== 0) {
    done({ ...wanted, metadata: trailers });
    return;
  }
  const ids: readonly (readonly [number, string])[] = numberOf(request.get(9)?.[0]) === 1 ? [[4, id]] : [];
  done(null, write([1, payload(numberOf(request.get(2)?.[0]))], ...ids), trailers);
}

async function serve(port: string): Promise<void> {
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  const service = {
    EmptyCall: method("EmptyCall", false, false),
    UnaryCall: method("UnaryCall", false, false),
    StreamingInputCall: method("StreamingInputCall", true, false),
    StreamingOutputCall: method("StreamingOutputCall", false, true),
    FullDuplexCall: method("FullDuplexCall", true, true),
  };
  server.addService(service, {
    EmptyCall: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) =>
      done(null, Buffer.alloc(0), echoed(call)),
    UnaryCall: unary,
    StreamingInputCall(call: ServerReadableStream<Buffer, Buffer>, done: sendUnaryData<Buffer>) {
      let sum = 0;
      call.on("data", (b: Buffer) => {
        sum += bytesOf(fieldsOf(bytesOf(fieldsOf(b).get(1)?.[0])).get(2)?.[0]).length;
      });
      call.on("end", () => done(null, write([1, sum])));
    },
    StreamingOutputCall(call: ServerWritableStream<Buffer, Buffer>) {
      for (const p of fieldsOf(call.request).get(2) ?? [])
        call.write(write([1, payload(numberOf(fieldsOf(bytesOf(p)).get(1)?.[0]))]));
      call.end();
    },
    FullDuplexCall(call: ServerDuplexStream<Buffer, Buffer>) {
      const trailers = echoed(call);
      let over = false;
      call.on("data", (b: Buffer) => {
        const request = fieldsOf(b);
        const wanted = statusOf(request);
        if (over) return;
        if (wanted !== undefined && wanted.code !== 0) {
          over = true;
          return void call.emit("error", { ...wanted, metadata: trailers });
        }
        for (const size of sizesOf(request)) call.write(write([1, payload(size)]));
      });
      call.on("end", () => (over ? undefined : call.end(trailers)));
    },
  });
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`[::]:${port}`, ServerCredentials.createInsecure(), (e) => (e === null ? resolve() : reject(e))),
  );
}

// The client.

interface Told {
  readonly code: number;
  readonly details: string;
  readonly head: Metadata;
  readonly trailers: Metadata;
  readonly messages: readonly Buffer[];
}
const sizeOf = (message: Buffer | undefined): number =>
  bytesOf(fieldsOf(bytesOf(fieldsOf(bytesOf(message)).get(1)?.[0])).get(2)?.[0]).length;

function callOnce(
  client: Client,
  name: string,
  message: Buffer,
  metadata = new Metadata(),
  service = SERVICE,
): Promise<Told> {
  return new Promise((resolve) => {
    const messages: Buffer[] = [];
    let head = new Metadata();
    const call = client.makeUnaryRequest(
      `/${service}/${name}`,
      same,
      same,
      message,
      metadata,
      deadline(),
      (_e, got) => {
        if (got !== undefined) messages.push(got);
      },
    );
    call.on("metadata", (m) => {
      head = m;
    });
    call.on("status", ({ code, details, metadata: trailers }) =>
      setImmediate(() => resolve({ code, details, head, trailers, messages })),
    );
  });
}
const duplex = (client: Client, metadata = new Metadata(), options: { deadline: number } = deadline()) =>
  client.makeBidiStreamRequest(`/${SERVICE}/FullDuplexCall`, same, same, metadata, options);
type Duplex = ReturnType<typeof duplex>;
const endOf = (call: Duplex): Promise<{ code: number; details: string; metadata: Metadata }> => {
  call.on("error", () => {});
  return new Promise((resolve) => call.on("status", resolve));
};
const pieces = [31415, 9, 2653, 58979] as const;
const sent = [27182, 8, 1828, 45904] as const;
const ask = (answer: number, size: number): Buffer => write([2, write([1, answer])], [3, payload(size)]);
const custom = (): Metadata => {
  const metadata = new Metadata();
  metadata.set("x-grpc-test-echo-initial", "test_initial_metadata_value");
  metadata.set("x-grpc-test-echo-trailing-bin", Buffer.from("ababab", "hex"));
  return metadata;
};
function isEchoed(head: Metadata, trailers: Metadata): void {
  assert.deepEqual(head.get("x-grpc-test-echo-initial"), ["test_initial_metadata_value"]);
  assert.deepEqual(trailers.get("x-grpc-test-echo-trailing-bin"), [Buffer.from("ababab", "hex")]);
}
const large = (...more: readonly (readonly [number, number | Buffer])[]): Buffer =>
  write([2, 314159], [3, payload(271828)], ...more);
const text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

const cases: Readonly<Record<string, (client: Client) => Promise<void>>> = {
  async empty_unary(client) {
    const { code, messages } = await callOnce(client, "EmptyCall", Buffer.alloc(0));
    assert.deepEqual([code, messages[0]?.length], [0, 0]);
  },
  async large_unary(client) {
    const { code, messages } = await callOnce(client, "UnaryCall", large());
    assert.deepEqual([code, sizeOf(messages[0])], [0, 314159]);
  },
  async client_streaming(client) {
    const sum = await new Promise<Buffer | undefined>((resolve, reject) => {
      const path = `/${SERVICE}/StreamingInputCall`;
      const call = client.makeClientStreamRequest(path, same, same, new Metadata(), deadline(), (e, got) =>
        e === null ? resolve(got) : reject(e),
      );
      for (const size of sent) call.write(write([1, payload(size)]));
      call.end();
    });
    assert.equal(numberOf(fieldsOf(bytesOf(sum)).get(1)?.[0]), 74922);
  },
  async server_streaming(client) {
    const request = write(...pieces.map((size) => [2, write([1, size])] as const));
    const path = `/${SERVICE}/StreamingOutputCall`;
    const call = client.makeServerStreamRequest(path, same, same, request, new Metadata(), deadline());
    const got: number[] = [];
    for await (const message of call as AsyncIterable<Buffer>) got.push(sizeOf(message));
    assert.deepEqual(got, pieces);
  },
  async ping_pong(client) {
    const call = duplex(client);
    const ended = endOf(call);
    for (const [i, size] of sent.entries()) {
      call.write(ask(pieces[i] ?? 0, size));
      const [message] = (await once(call, "data")) as [Buffer];
      assert.equal(sizeOf(message), pieces[i]);
    }
    call.end();
    assert.equal((await ended).code, 0);
  },
  async empty_stream(client) {
    const call = duplex(client);
    const ended = endOf(call);
    call.on("data", () => assert.fail("a message"));
    call.end();
    assert.equal((await ended).code, 0);
  },
  async timeout_on_sleeping_server(client) {
    const call = duplex(client, new Metadata(), { deadline: Date.now() + 1 });
    const ended = endOf(call);
    call.write(ask(0, 27182));
    assert.equal((await ended).code, status.DEADLINE_EXCEEDED);
  },
  async cancel_after_begin(client) {
    const path = `/${SERVICE}/StreamingInputCall`;
    const code = await new Promise((resolve) => {
      const call = client.makeClientStreamRequest(path, same, same, new Metadata(), deadline(), (e) =>
        resolve(e?.code),
      );
      setImmediate(() => call.cancel());
    });
    assert.equal(code, status.CANCELLED);
  },
  async cancel_after_first_response(client) {
    const call = duplex(client);
    const ended = endOf(call);
    call.write(ask(31415, 27182));
    await once(call, "data");
    call.cancel();
    assert.equal((await ended).code, status.CANCELLED);
  },
  async status_code_and_message(client) {
    const wanted = write([7, write([1, 2], [2, "test status message"])]);
    const once = await callOnce(client, "UnaryCall", wanted);
    assert.deepEqual([once.code, once.details], [2, "test status message"]);
    const call = duplex(client);
    const ended = endOf(call);
    call.on("data", () => {});
    call.end(wanted);
    const { code, details } = await ended;
    assert.deepEqual([code, details], [2, "test status message"]);
  },
  async special_status_message(client) {
    const { code, details } = await callOnce(client, "UnaryCall", write([7, write([1, 2], [2, text])]));
    assert.deepEqual([code, details], [2, text]);
  },
  async custom_metadata(client) {
    const { code, head, trailers } = await callOnce(client, "UnaryCall", large(), custom());
    assert.equal(code, 0);
    isEchoed(head, trailers);
    const call = duplex(client, custom());
    const ended = endOf(call);
    const first = once(call, "metadata") as Promise<[Metadata]>;
    call.on("data", () => call.end());
    call.write(ask(314159, 271828));
    isEchoed((await first)[0], (await ended).metadata);
  },
  async unimplemented_method(client) {
    assert.equal((await callOnce(client, "UnimplementedCall", Buffer.alloc(0))).code, status.UNIMPLEMENTED);
  },
  async unimplemented_service(client) {
    const other = "grpc.testing.UnimplementedService";
    const { code } = await callOnce(client, "UnimplementedCall", Buffer.alloc(0), new Metadata(), other);
    assert.equal(code, status.UNIMPLEMENTED);
  },
};

const [verb = "", where = "", name = ""] = process.argv.slice(2);
if (verb === "serve") await serve(where);
else {
  const run = cases[name];
  assert.ok(run !== undefined, `no such case: ${name}`);
  const client = new Client(where, credentials.createInsecure());
  await run(client);
  client.close();
}
