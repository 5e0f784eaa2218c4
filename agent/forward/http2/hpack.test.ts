// HPACK against the examples of RFC 7541 appendix C, against itself, and against broken input.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { kind } from "./fields.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { fieldBound, HpackEncoder } from "./hpack-encoder.ts";
import { huffmanDecode, huffmanEncode, huffmanLength } from "./huffman.ts";

type Row = readonly [name: string, value: string, never?: boolean];
const hex = (text: string): Buffer => Buffer.from(text, "hex");

function decode(decoder: HpackDecoder, block: Buffer): { rows: Row[]; error: string | null } {
  const rows: Row[] = [];
  const error = decoder.decode(block, 0, block.length, {
    field: (name, value, _kind, never) => void rows.push(never ? [name, value, true] : [name, value]),
  });
  return { rows, error };
}

function encode(encoder: HpackEncoder, rows: readonly Row[]): Buffer {
  const to = Buffer.alloc(16 + rows.reduce((n, [name, value]) => n + fieldBound(name, value), 0));
  let at = encoder.begin(to, 0);
  for (const [name, value, never] of rows) at = encoder.field(name, value, never === true, to, at);
  return to.subarray(0, at);
}

const first: Row[] = [
  [":method", "GET"],
  [":scheme", "http"],
  [":path", "/"],
  [":authority", "www.example.com"],
];
const secure: Row[] = [
  [":method", "GET"],
  [":scheme", "https"],
  [":path", "/index.html"],
  [":authority", "www.example.com"],
  ["custom-key", "custom-value"],
];
const answer = (status: string, second: string): Row[] => [
  [":status", status],
  ["cache-control", "private"],
  ["date", `Mon, 21 Oct 2013 20:13:${second} GMT`],
  ["location", "https://www.example.com"],
];
const last: Row[] = [
  ...answer("200", "22"),
  ["content-encoding", "gzip"],
  ["set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"],
];
const date21 = "611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54";

test("[SEC-8] HPACK: the examples of RFC 7541 appendix C decode to their fields and table sizes", () => {
  const runs: { table: number; blocks: [block: string, rows: Row[], bytes: number][] }[] = [
    {
      table: 4_096,
      blocks: [["400a637573746f6d2d6b65790d637573746f6d2d686561646572", [["custom-key", "custom-header"]], 55]],
    },
    { table: 4_096, blocks: [["040c2f73616d706c652f70617468", [[":path", "/sample/path"]], 0]] },
    { table: 4_096, blocks: [["100870617373776f726406736563726574", [["password", "secret", true]], 0]] },
    { table: 4_096, blocks: [["82", [[":method", "GET"]], 0]] },
    {
      table: 4_096,
      blocks: [
        ["828684410f7777772e6578616d706c652e636f6d", first, 57],
        ["828684be58086e6f2d6361636865", [...first, ["cache-control", "no-cache"]], 110],
        ["828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", secure, 164],
      ],
    },
    {
      table: 4_096,
      blocks: [
        ["828684418cf1e3c2e5f23a6ba0ab90f4ff", first, 57],
        ["828684be5886a8eb10649cbf", [...first, ["cache-control", "no-cache"]], 110],
        ["828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", secure, 164],
      ],
    },
    {
      table: 256,
      blocks: [
        [
          `4803333032580770726976617465${date21}6e1768747470733a2f2f7777772e6578616d706c652e636f6d`,
          answer("302", "21"),
          222,
        ],
        ["4803333037c1c0bf", answer("307", "21"), 222],
        [
          `88c1${date21.replace("323120474d54", "323220474d54")}c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f5049` +
            "5541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
          last,
          215,
        ],
      ],
    },
    {
      table: 256,
      blocks: [
        [
          "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
          answer("302", "21"),
          222,
        ],
        ["4883640effc1c0bf", answer("307", "21"), 222],
        [
          "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af2708" +
            "7f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
          last,
          215,
        ],
      ],
    },
  ];
  for (const { table, blocks } of runs) {
    const decoder = new HpackDecoder(table);
    for (const [block, rows, bytes] of blocks) {
      const got = decode(decoder, hex(block));
      assert.equal(got.error, null);
      // In C.3.2 and C.4.2 the fields come in this order too.
      assert.deepEqual(new Set(got.rows.map(String)), new Set(rows.map(String)));
      assert.equal(decoder.bytes, bytes, block);
    }
  }
});

const text = fc.oneof(
  fc.string({ maxLength: 40, unit: fc.integer({ min: 0, max: 255 }).map((c) => String.fromCharCode(c)) }),
  fc.constantFrom("", "GET", "200", "no-cache", "gzip, deflate", "x".repeat(300)),
);
const fieldName = fc.oneof(
  fc.constantFrom(":path", ":status", "cookie", "authorization", "content-type", "x-a", "x-b", "te", "date"),
  fc.stringMatching(/^[a-z][a-z0-9-]{0,12}$/),
);
const rows = fc.array(fc.tuple(fieldName, text, fc.boolean()), { maxLength: 12 });

test("[SEC-8] HPACK: what is encoded decodes to the same, tables stay level, whatever sizes are said", () => {
  const step = fc.oneof(
    rows.map((r) => ({ rows: r })),
    fc.constantFrom(0, 40, 100, 256, 4_096, 10_000).map((size) => ({ size })),
  );
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 25 }),
      fc.boolean(),
      fc.constantFrom(64, 4_096, 8_192),
      (steps, huffman, most) => {
        const encoder = new HpackEncoder({ huffman, maxTable: most });
        const decoder = new HpackDecoder(4_096);
        for (const each of steps) {
          if ("size" in each) {
            encoder.setMaxSize(each.size);
            decoder.setAllowed(each.size);
            continue;
          }
          const got = decode(decoder, encode(encoder, each.rows));
          assert.equal(got.error, null);
          assert.deepEqual(
            got.rows.map(([name, value]) => [name, value]),
            each.rows.map(([name, value]) => [name, value]),
          );
          // Never-indexed stays so; short secrets become so.
          each.rows.forEach(([, , never], i) => {
            if (never) assert.equal(got.rows[i]?.[2], true);
          });
          assert.equal(decoder.bytes, encoder.bytes);
          assert.equal(decoder.entries, encoder.entries);
          assert.ok(encoder.bytes <= most);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("[SEC-8] HPACK: a value that repeats is one byte from its third time on, one that does not stays out of the table", () => {
  const encoder = new HpackEncoder({ huffman: false, maxTable: 4_096 });
  const sizes = [1, 2, 3, 4].map(() => encode(encoder, [["x-tenant", "shop"]]).length);
  assert.deepEqual(sizes.slice(2), [1, 1]);
  for (let i = 0; i < 100; i++) encode(encoder, [["x-request-id", `${i}`]]);
  assert.equal(encoder.entries, 1);
});

test("[SEC-8] HPACK: names without end do not grow the encoder, and live entries survive them", () => {
  const encoder = new HpackEncoder({ huffman: true, maxTable: 4_096 });
  const decoder = new HpackDecoder(4_096);
  for (let i = 0; i < 5_000; i++) {
    const sent: Row[] = [
      [`x-${i}`, "v"],
      [`x-${i >> 2}`, ""],
      ["x-kept", "value"],
    ];
    const got = decode(decoder, encode(encoder, sent));
    assert.deepEqual(got, { rows: sent, error: null });
    assert.equal(decoder.bytes, encoder.bytes);
  }
});

test("[SEC-8] Huffman: every byte and any text reads back, in the length that was foretold", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const from = Buffer.from(bytes);
      const coded = Buffer.alloc(from.length * 4 + 1);
      const end = huffmanEncode(from.toString("latin1"), coded, 0);
      assert.equal(end, huffmanLength(from.toString("latin1")));
      const back = Buffer.alloc(end * 2);
      const length = huffmanDecode(coded, 0, end, back);
      assert.ok(back.subarray(0, length).equals(from));
    }),
  );
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const coded = Buffer.alloc(1_024);
  const back = Buffer.alloc(2_048);
  assert.equal(huffmanDecode(coded, 0, huffmanEncode(all.toString("latin1"), coded, 0), back), 256);
  assert.ok(back.subarray(0, 256).equals(all));
});

test("[SEC-8] HPACK: broken input is refused with its reason", () => {
  const refused: [string, string][] = [
    ["80", "hpack_index"],
    ["be", "hpack_index"],
    ["7f00", "hpack_index"],
    ["ff", "hpack_truncated"],
    ["ffffffffffffff", "hpack_integer"],
    ["0085f2", "hpack_truncated"],
    ["00", "hpack_truncated"],
    // Padding of a whole byte, padding of zeros, EOS.
    ["00810082f8ff", "hpack_huffman"],
    ["00810181f8", "hpack_huffman"],
    ["008101811e", "hpack_huffman"],
    ["00810184ffffffff", "hpack_huffman"],
    ["3fe21f", "hpack_size_update"],
    ["8220", "hpack_size_update"],
  ];
  for (const [block, reason] of refused) assert.equal(decode(new HpackDecoder(4_096), hex(block)).error, reason, block);
  // A smaller table that the encoder does not confirm (RFC 7541 §4.2), and one that it does.
  const decoder = new HpackDecoder(4_096);
  decoder.setAllowed(100);
  assert.equal(decode(decoder, hex("82")).error, "hpack_size_update");
  const told = new HpackDecoder(4_096);
  told.setAllowed(100);
  assert.equal(decode(told, hex("3f4582")).error, null);
});

test("[SEC-8] HPACK: fields that are not allowed keep their kind, from the table too", () => {
  const decoder = new HpackDecoder(4_096);
  const kinds: number[] = [];
  const sink = { field: (_n: string, _v: string, of: number) => void kinds.push(of) };
  // "X" as a name, a line feed as a value, "connection", each put into the table, then read from it; last the second one's name.
  const block = Buffer.concat([
    hex("4001580161"),
    hex("40017801 0a".replace(" ", "")),
    Buffer.from("\x40\x0aconnection\x01a", "latin1"),
    hex("c0bfbe"),
    hex("0f300161"),
  ]);
  assert.equal(decoder.decode(block, 0, block.length, sink), null);
  const { badName, badValue, hop, regular } = kind;
  assert.deepEqual(kinds, [badName, badValue, hop, badName, badValue, hop, regular]);
});

test("[SEC-8] HPACK: literals that are sent again and again read the same each time, broken ones in between too", () => {
  const texts = fc.array(fc.oneof(text, fc.constantFrom("a", "b", "nginx/1.22.1", "text/html")), {
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(texts, fc.array(fc.tuple(fc.nat(5), fc.boolean()), { minLength: 60, maxLength: 120 }), (few, order) => {
      const decoder = new HpackDecoder(4_096);
      for (const [turn, huffman] of order) {
        const value = few[turn % few.length] ?? "";
        // A fresh encoder knows nothing, so it writes literals, or what the static table has.
        const encoder = new HpackEncoder({ huffman, maxTable: 4_096 });
        assert.deepEqual(decode(decoder, encode(encoder, [["x-any", value]])).rows, [["x-any", value]]);
        if (turn === 5) assert.equal(decode(decoder, hex("00810184ffffffff")).error, "hpack_huffman");
      }
    }),
    { numRuns: 50 },
  );
});
