// Numbers of HTTP/2 (RFC 9113 §6, §7, §11; RFC 8441): frame types, flags, settings, error codes, and the connection preface.

export const frameType = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
  /** Between agents alone (§5.5), empty: the HTTP/1.1 client whose request this is has ended its side of its connection. */
  clientEnded: 0xf1,
} as const;

export const flag = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const;

export const setting = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
  enableConnectProtocol: 8,
} as const;

export const errorCode = {
  noError: 0,
  protocolError: 1,
  internalError: 2,
  flowControlError: 3,
  settingsTimeout: 4,
  streamClosed: 5,
  frameSizeError: 6,
  refusedStream: 7,
  cancel: 8,
  compressionError: 9,
  connectError: 10,
  enhanceYourCalm: 11,
  inadequateSecurity: 12,
  http11Required: 13,
} as const;

export const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

/** Header of every frame, bytes. */
export const frameHeaderBytes = 9;
export const maxWindow = 0x7fff_ffff;
/** What holds until a SETTINGS frame says otherwise (§6.5.2). */
export const defaultWindow = 65_535;
export const defaultFrameSize = 16_384;
export const defaultTableSize = 4_096;
/**
 * A chunk of DATA this long is passed on by reference: whoever gets one may keep it. A shorter one is copied, and its memory is used
 * again after the call.
 */
export const referenceBytes = 4_096;
