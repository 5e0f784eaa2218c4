// Answers of our own to an HTTP/2 client; one that calls by gRPC gets them as gRPC, with a status in fields.
import type { HeaderList } from "../../http.ts";
import { grpcAnswer, grpcCode, grpcCodeOf } from "../grpc.ts";
import type { Outcome } from "../http1/exchange.ts";
import type { Http2Stream } from "./stream.ts";
import { editedFields } from "./translate.ts";

export interface LocalAnswer {
  readonly status: number;
  readonly headers: HeaderList;
  readonly body: Buffer;
  /** Why it is given; a word of records. */
  readonly outcome: Outcome;
  readonly grpcStatus?: number | undefined;
}

/** Sends it as trailers alone; gives the code. */
export function answerGrpc(stream: Http2Stream, { status, headers, body, outcome, grpcStatus }: LocalAnswer): number {
  const code = grpcStatus ?? grpcCodeOf(status, outcome);
  stream.respond(200, grpcAnswer(code, body.length > 0 ? body.toString() : messageOf(outcome), headers), true);
  return code;
}

/** Sends it; gives the bytes of its body that go out. */
export function answerPlainly(stream: Http2Stream, method: string, { status, headers, body }: LocalAnswer): number {
  const isBodiless = status === 204 || status === 304;
  const hasBody = method !== "HEAD" && !isBodiless && body.length > 0;
  const length = isBodiless ? [] : ["content-length", String(body.length)];
  stream.respond(status, editedFields(length, { remove: [], set: [], add: headers }), !hasBody);
  if (hasBody) stream.sendData(body, true);
  return hasBody ? body.length : 0;
}

/** Ends a call whose answer has begun; undefined: there is no code for it, so the stream is to be reset. */
export function endGrpc(stream: Http2Stream, why: Outcome): number | undefined {
  const isLate = why === "request_timeout";
  if (!isLate && why !== "upstream_reset" && why !== "upstream_closed") return undefined;
  const code = isLate ? grpcCode.deadlineExceeded : grpcCode.unavailable;
  stream.sendTrailers(["grpc-status", String(code), "grpc-message", messageOf(why)]);
  return code;
}

const messageOf = (outcome: Outcome): string =>
  outcome === "request_timeout" ? "deadline exceeded" : outcome.replaceAll("_", " ");
