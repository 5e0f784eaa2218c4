// What the CNI plugin asks and hears (native/cni/src/agent.rs): one question and one answer a connection, each `u32 little-endian
// length | JSON`. Bytes in, checked request out.
import { isObjectName } from "../api/fields.ts";
import { canonicalIp } from "../base/ip.ts";
import { err, ok, type Result } from "../base/result.ts";

export const protocolVersion = 1;
/** Of either side's message. */
export const maxMessageBytes = 64 * 1024;

/** A pod's network as the container runtime has made it. */
export interface CniPod {
  readonly containerId: string;
  readonly namespace: string;
  readonly name: string;
  /** Empty from runtimes that do not tell it. */
  readonly uid: string;
  /** Path as the runtime sees it; at `del` it may be empty, and its namespace gone. */
  readonly netns: string;
  /** Inode of the namespace there, 0 if the plugin could not see it. */
  readonly netnsInode: number;
  readonly interface: string;
  readonly addresses: readonly string[];
}
export type CniRequest =
  | { readonly command: "add" | "check" | "del"; readonly pod: CniPod }
  /** Something may have ended that was never told. */
  | { readonly command: "gc" };
export const cniCommands = ["add", "check", "del", "gc"] as const;

export type CniAnswer =
  | { readonly outcome: "ok"; readonly reason: string }
  /** `retry`: the runtime should ask again; `code` is stable, `message` is what an event of the pod shows. */
  | { readonly outcome: "failed"; readonly code: string; readonly message: string; readonly retry: boolean };

/** The length that a message begins with, once four bytes are there. The error is for the log: nothing after it can be read. */
export function messageSize(head: Buffer): Result<number, string> {
  const size = head.readUInt32LE(0);
  return size <= maxMessageBytes ? ok(size) : err(`a message of ${size} bytes: at most ${maxMessageBytes} are taken`);
}

/** Parses a question. The error names every field that is wrong. */
export function parseRequest(text: string): Result<CniRequest, string> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    return err(`is not JSON: ${(error as Error).message}`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) return err("is not a JSON object");
  const fields = json as Readonly<Record<string, unknown>>;
  if (fields.version !== protocolVersion)
    return err(`version: is ${JSON.stringify(fields.version)}, this agent speaks ${protocolVersion}`);
  const command = cniCommands.find((known) => known === fields.command);
  if (command === undefined) return err(`command: is none of ${cniCommands.join(", ")}`);
  if (command === "gc") return ok({ command });
  const problems: string[] = [];
  const string = (name: string, isGood: (text: string) => boolean, what: string): string => {
    const value = fields[name];
    if (typeof value === "string" && isGood(value)) return value;
    problems.push(`${name}: is not ${what}`);
    return "";
  };
  const isPath = (path: string): boolean => path.startsWith("/") && path.length <= 4096 && !path.includes("\0");
  const pod: CniPod = {
    containerId: string("containerId", (id) => /^[\w.-]{1,256}$/.test(id), "a container id"),
    namespace: string("namespace", isObjectName, "a Kubernetes name"),
    name: string("name", isObjectName, "a Kubernetes name"),
    uid: string("uid", (uid) => /^[\w-]{0,128}$/.test(uid), "a pod's uid"),
    netns: string("netns", (path) => isPath(path) || (path === "" && command === "del"), "an absolute path"),
    netnsInode: Number.isSafeInteger(fields.netnsInode) ? (fields.netnsInode as number) : 0,
    interface: string("interface", (name) => /^[^/:\s]{1,15}$/.test(name), "the name of an interface"),
    addresses: list(fields.addresses, problems),
  };
  return problems.length === 0 ? ok({ command, pod }) : err(problems.join("; "));
}

function list(value: unknown, problems: string[]): readonly string[] {
  if (!Array.isArray(value) || value.length > 64) {
    problems.push("addresses: is not a list of at most 64");
    return [];
  }
  return value.map((address, i) => {
    const canonical = typeof address === "string" ? canonicalIp(address) : undefined;
    if (canonical === undefined) problems.push(`addresses[${i}]: is not an IP address`);
    return canonical ?? "";
  });
}

/** The answer as bytes. Texts are cut, so that none is too long to be read. */
export function encodeAnswer(answer: CniAnswer): Buffer {
  const cut = (text: string): string => text.slice(0, 2_000);
  const short =
    answer.outcome === "ok"
      ? { ...answer, reason: cut(answer.reason) }
      : { ...answer, code: cut(answer.code), message: cut(answer.message) };
  const body = Buffer.from(JSON.stringify({ version: protocolVersion, ...short }));
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length, 0);
  return Buffer.concat([head, body]);
}
