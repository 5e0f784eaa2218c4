// What is known of gRPC without its messages: its type, its codes, its messages' encoding.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { grpcAnswer, grpcCodeOf, grpcMessage, isGrpcType, knownStatus } from "./grpc.ts";

test("[TRF-7] a gRPC call is known by its content type; grpc-web and others are not", () => {
  for (const type of [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc;charset=utf-8",
    "application/grpc ; a=b",
  ])
    assert.equal(isGrpcType(type), true, type);
  for (const type of [
    undefined,
    "",
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpcx",
    "application/json",
  ])
    assert.equal(isGrpcType(type), false, String(type));
});

test("[TRF-7] messages are percent-encoded so that they come back whole and stand in one field", () => {
  assert.equal(grpcMessage("a b%\n"), "a b%25%0A");
  assert.equal(grpcMessage("ä"), "%C3%A4");
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => {
      const coded = grpcMessage(text);
      assert.match(coded, /^[ -~]*$/);
      assert.equal(decodeURIComponent(coded), text.toWellFormed());
    }),
  );
});

test("[TRF-7] codes of answers of our own follow the gRPC documents, and whatever a server says is one of 17 in records", () => {
  const codes: readonly (readonly [number, string, number])[] = [
    [400, "finished", 13],
    [401, "finished", 16],
    [403, "finished", 7],
    [404, "finished", 12],
    [418, "finished", 2],
    [429, "finished", 14],
    [503, "connect_refused", 14],
    [504, "request_timeout", 4],
    [504, "connect_timeout", 14],
    [502, "grpc_over_http1", 12],
    [200, "finished", 0],
  ];
  for (const [status, why, code] of codes) assert.equal(grpcCodeOf(status, why), code, `${status} ${why}`);
  for (let code = 0; code <= 16; code++) assert.equal(knownStatus(String(code)), String(code));
  for (const text of ["17", "-1", "", "00", "x", "1 "]) assert.equal(knownStatus(text), "2");
});

test("[TRF-7] an answer that is all trailers keeps the fields that were asked for, but none of its own", () => {
  assert.deepEqual(grpcAnswer(7, "no\n", ["content-type", "text/plain", "x-policy", "p", "grpc-status", "0"]), [
    "content-type",
    "application/grpc",
    "grpc-status",
    "7",
    "grpc-message",
    "no",
    "x-policy",
    "p",
  ]);
  assert.deepEqual(grpcAnswer(0, "", []), ["content-type", "application/grpc", "grpc-status", "0"]);
});
