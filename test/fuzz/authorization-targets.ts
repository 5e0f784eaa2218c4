// What authorization reads of a request's bytes: paths in every mode against the plain reading of Istio's text, hosts, forwarded addresses.
import assert from "node:assert/strict";
import { pathNormalizations } from "../../agent/api/settings.ts";
import { isAmbiguous, normalizePath, pathOf, plainestReading } from "../../agent/decide/request-path.ts";
import { hostReadings } from "../../agent/decide/request-view.ts";
import { normalized, plain } from "../reference/authorize.ts";
import type { FuzzTarget } from "./target.ts";

function paths(input: Buffer): string {
  const path = pathOf(`/${input.toString("latin1")}`);
  const deep = plainestReading(path);
  assert.equal(deep, plain(path));
  assert.ok(deep.startsWith("/") && !/\/\/|\/\.\.?(\/|$)|[\\;]/.test(deep), `"${deep}" has something left to resolve`);
  const kinds = pathNormalizations.map((mode) => {
    const read = normalizePath(path, mode);
    assert.equal(read, normalized(path, mode), mode);
    // Said to be unambiguous, the two readings name the same segments.
    if (!isAmbiguous(read, deep)) assert.equal(read.split("/").length, deep.split("/").length);
    return `${read === path}${read === deep}${isAmbiguous(read, deep)}`;
  });
  return kinds.join();
}

function hosts(input: Buffer): string {
  const authority = input.toString("latin1");
  const readings = hostReadings(authority);
  assert.equal(readings[0], authority.toLowerCase());
  assert.ok(
    readings.length <= 4 && readings.every((host) => authority.toLowerCase().includes(host.split(":")[0] ?? "")),
  );
  return `${readings.length}`;
}

export const authorizationTargets: readonly FuzzTarget[] = [
  { name: "request-path", maxBytes: 400, run: paths },
  { name: "request-host", maxBytes: 300, run: hosts },
];
