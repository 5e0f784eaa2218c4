// What one HTTP/1.1 message may cost at most.

export interface CodecLimits {
  /** Start line and fields with their line ends, bytes. */
  readonly maxHeadBytes: number;
  readonly maxFields: number;
  readonly maxTargetBytes: number;
  /** All trailer fields of a message, bytes. */
  readonly maxTrailerBytes: number;
  /** Extensions of all chunks of a message, bytes: they mean nothing to anyone here, so they are only read over. */
  readonly maxChunkExtensionBytes: number;
}

// Envoy takes 60 KiB and 100 fields, nginx 32 KiB, Node 16 KiB and 2,000 fields.
export const defaultCodecLimits: CodecLimits = {
  maxHeadBytes: 64 * 1024,
  maxFields: 200,
  maxTargetBytes: 16 * 1024,
  maxTrailerBytes: 16 * 1024,
  maxChunkExtensionBytes: 16 * 1024,
};

/** Bodies from here on are long: worth a connection of their own. */
export const longBodyBytes = 256 * 1024;
