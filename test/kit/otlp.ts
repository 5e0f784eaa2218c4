// Reads what an exporter of OTLP sent (ExportTraceServiceRequest of opentelemetry-proto 1.x), by field numbers alone.
import { BinaryReader } from "@bufbuild/protobuf/wire";

export interface ReadSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly traceState: string;
  readonly name: string;
  readonly kind: string;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly status: string;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly scope: string;
  readonly resource: Readonly<Record<string, unknown>>;
}

type Fields = Map<number, (bigint | Uint8Array)[]>;

/** Field number -> values: numbers as they stand on the wire, everything else as bytes. */
function fieldsOf(bytes: Uint8Array): Fields {
  const reader = new BinaryReader(bytes);
  const fields: Fields = new Map();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const value =
      type === 0
        ? BigInt(reader.uint64())
        : type === 1
          ? BigInt(reader.fixed64())
          : type === 5
            ? BigInt(reader.fixed32())
            : reader.bytes();
    const list = fields.get(number);
    if (list === undefined) fields.set(number, [value]);
    else list.push(value);
  }
  return fields;
}
const messages = (fields: Fields, number: number): readonly Fields[] =>
  (fields.get(number) ?? []).map((value) => fieldsOf(value as Uint8Array));
const bytes = (fields: Fields, number: number): Uint8Array =>
  (fields.get(number)?.[0] as Uint8Array) ?? new Uint8Array();
const text = (fields: Fields, number: number): string => Buffer.from(bytes(fields, number)).toString();
const hex = (fields: Fields, number: number): string => Buffer.from(bytes(fields, number)).toString("hex");
const integer = (fields: Fields, number: number): bigint => (fields.get(number)?.[0] as bigint | undefined) ?? 0n;

/** KeyValue { 1: key, 2: AnyValue { 1: string, 2: bool, 3: int, 4: double, 5: array } } */
function attributes(list: readonly Fields[]): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const pair of list) {
    const [value = new Map()] = messages(pair, 2);
    found[text(pair, 1)] = anyValue(value);
  }
  return found;
}
function anyValue(value: Fields): unknown {
  if (value.has(1)) return text(value, 1);
  if (value.has(2)) return integer(value, 2) === 1n;
  if (value.has(3)) return Number(integer(value, 3));
  if (value.has(4)) return Buffer.from(new BigUint64Array([integer(value, 4)]).buffer).readDoubleLE();
  return messages(value, 5).flatMap((array) => messages(array, 1).map(anyValue));
}

/** All spans of one request, in their order. */
export function spansOf(body: Buffer): readonly ReadSpan[] {
  const kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"];
  return messages(fieldsOf(body), 1).flatMap((resourceSpans) => {
    const [resource = new Map()] = messages(resourceSpans, 1);
    return messages(resourceSpans, 2).flatMap((scopeSpans) => {
      const [scope = new Map()] = messages(scopeSpans, 1);
      return messages(scopeSpans, 2).map((span) => {
        const [status = new Map()] = messages(span, 15);
        return {
          traceId: hex(span, 1),
          spanId: hex(span, 2),
          traceState: text(span, 3),
          parentSpanId: hex(span, 4),
          name: text(span, 5),
          kind: kinds[Number(integer(span, 6))] ?? "",
          startNs: integer(span, 7),
          endNs: integer(span, 8),
          attributes: attributes(messages(span, 9)),
          status: ["unset", "ok", "error"][Number(integer(status, 3))] ?? "",
          scope: `${text(scope, 1)} ${text(scope, 2)}`,
          resource: attributes(messages(resource, 1)),
        };
      });
    });
  });
}
