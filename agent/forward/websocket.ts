// The opening handshake of WebSocket where its two ends speak different versions of HTTP (RFC 6455 §4, RFC 8441 §5): keys, and words for
// what cannot be opened.
import { createHash, randomBytes } from "node:crypto";

/** As `:protocol` and `Upgrade` name it. */
export const websocket = "websocket";

const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** What a server proves with that it read the handshake (RFC 6455 §4.2.2): `Sec-WebSocket-Accept` to a `Sec-WebSocket-Key`. */
export const acceptOf = (key: string): string =>
  createHash("sha1")
    .update(key + guid, "latin1")
    .digest("base64");

/** A nonce of 16 bytes in base64 (RFC 6455 §4.1). */
export const newKey = (): string => randomBytes(16).toString("base64");
export const isKey = (key: string): boolean => /^[A-Za-z0-9+/]{22}==$/.test(key);

/** Outcomes. The server speaks HTTP/2 and takes no extended CONNECT; it answered 2xx as if it had been asked for a page; no key. */
export const unsupported = "refused:upgrade_unsupported";
export const declined = "refused:upgrade_declined";
export const keyMissing = "refused:websocket_key";

const answers: Readonly<Record<string, { readonly status: number; readonly body: Buffer }>> = {
  [unsupported]: {
    status: 501,
    body: Buffer.from(
      "the server's port is declared HTTP/2, and it does not take WebSocket over HTTP/2 (RFC 8441): declare a port with appProtocol http or kubernetes.io/ws for it\n",
    ),
  },
  [declined]: { status: 501, body: Buffer.from("what is asked for is there, and does not speak WebSocket\n") },
  [keyMissing]: { status: 400, body: Buffer.from("Sec-WebSocket-Key is missing or no key (RFC 6455 section 4.1)\n") },
};

/** What a client is told instead of being let in; undefined: `why` is no such word. */
export const upgradeRefusal = (why: string): { readonly status: number; readonly body: Buffer } | undefined =>
  answers[why];
