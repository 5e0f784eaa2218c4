// What an admin request may look like: plain path, bounded JSON object, only the fields that its route names.
import type { IncomingMessage } from "node:http";
import { err, ok, type Result } from "./result.ts";

export type FieldType = "string" | "number" | "boolean" | "string[]" | "object";
export type FieldTypes = Readonly<Record<string, FieldType | `${FieldType}?`>>;
export interface RequestFault {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

/** No escapes, dots that climb, empty parts or anything outside a small alphabet: names need nothing else. */
export function isCleanPath(path: string): boolean {
  if (path.length > 512 || !/^(\/[A-Za-z0-9._~:-]+)+$|^\/$/.test(path)) return false;
  return !path.split("/").some((part) => part === "." || part === "..");
}

/** Reads the whole body, at most `limit` bytes. */
export async function readBody(request: IncomingMessage, limit: number): Promise<Result<Buffer, RequestFault>> {
  const tooLarge = { status: 413, code: "body_too_large", message: `the body is over ${limit} bytes` };
  if (Number(request.headers["content-length"] ?? 0) > limit) return err(tooLarge);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) return err(tooLarge);
      chunks.push(chunk);
    }
  } catch {
    return err({ status: 400, code: "body_cut", message: "the body ended early" });
  }
  return ok(Buffer.concat(chunks));
}

/** Parses a JSON object and checks it against the fields of the route. */
export function checkBody(body: Buffer, fields: FieldTypes): Result<Readonly<Record<string, unknown>>, string> {
  let value: unknown = {};
  if (body.length > 0) {
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
    } catch {
      return err("the body is not JSON");
    }
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return err("the body is not a JSON object");
  for (const key of Object.keys(value)) {
    if (!Object.hasOwn(fields, key)) {
      const known = Object.keys(fields);
      return err(
        `unknown field ${JSON.stringify(key.slice(0, 80))}${known.length > 0 ? `; known: ${known.join(", ")}` : ""}`,
      );
    }
  }
  for (const [key, type] of Object.entries(fields)) {
    const isOptional = type.endsWith("?");
    const field = (value as Record<string, unknown>)[key];
    if (field === undefined) {
      if (!isOptional) return err(`field "${key}" is missing`);
    } else if (!isOfType(field, (isOptional ? type.slice(0, -1) : type) as FieldType)) {
      return err(`field "${key}" is not a ${type.replace("?", "")}`);
    }
  }
  return ok(value as Record<string, unknown>);
}

function isOfType(value: unknown, type: FieldType): boolean {
  switch (type) {
    case "string[]":
      return Array.isArray(value) && value.every((entry) => typeof entry === "string");
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    default:
      return typeof value === type;
  }
}
