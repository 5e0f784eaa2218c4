// Every reason for which HTTP/1.1 bytes are refused, with the status that a client is answered. Words are stable: metrics and logs carry them.
import type { Malformed } from "../../http.ts";

const statuses = {
  request_line: 400,
  status_line: 400,
  method_too_long: 501,
  target: 400,
  target_too_long: 414,
  version: 400,
  version_unsupported: 505,
  line_ending: 400,
  field_name: 400,
  space_before_colon: 400,
  obs_fold: 400,
  field_value: 400,
  head_too_large: 431,
  too_many_fields: 431,
  host_missing: 400,
  host_repeated: 400,
  host_malformed: 400,
  content_length: 400,
  content_length_repeated: 400,
  content_length_and_transfer_encoding: 400,
  transfer_encoding_in_1_0: 400,
  transfer_encoding_repeated: 400,
  transfer_encoding_order: 400,
  transfer_coding_unknown: 501,
  connection_option: 400,
  connection_names_framing: 400,
  connect_with_body: 400,
  expectation: 417,
  chunk_size: 400,
  chunk_extension: 400,
  chunk_extensions_too_long: 400,
  chunk_end: 400,
  trailer_forbidden: 400,
  trailers_too_large: 431,
  head_timeout: 408,
  /** The client's namespace holds more of the thread's memory than it may. */
  memory_overflow: 431,
} as const;

export type Refusal = keyof typeof statuses;

const table = Object.fromEntries(
  Object.entries(statuses).map(([refused, status]) => [refused, Object.freeze({ refused, status })]),
) as Readonly<Record<Refusal, Malformed>>;

/** The one object of this reason: nothing is made per refusal. */
export const malformed = (refused: Refusal): Malformed => table[refused];
