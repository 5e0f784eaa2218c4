// A node joins with one key, however often it has to ask: the token is good for one.
import "reflect-metadata";
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { X509CertificateGenerator } from "@peculiar/x509";
import { domain } from "../../test/kit/mesh.ts";
import { waitFor } from "../../test/kit/wait.ts";
import type { JoinRequest, JoinResponse } from "../api/mesh.gen.ts";
import type { NodeName } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import { NodeCredentials } from "./node-credential.ts";

const lost = err("deadline exceeded");

async function certificate(): Promise<string> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const made = await X509CertificateGenerator.createSelfSigned({
    name: "CN=node1",
    keys,
    signingAlgorithm: algorithm,
    notBefore: new Date(systemClock.now() - 1_000),
    notAfter: new Date(systemClock.now() + 3_600_000),
  });
  return made.toString("pem");
}

/** Joins until it has asked `attempts` times; what it asked with, by attempt. */
async function joinWith(t: TestContext, runDir: string, answers: readonly Result<JoinResponse, string>[]) {
  writeFileSync(join(runDir, "token"), "secret\n");
  const asked: JoinRequest[] = [];
  const stop = new AbortController();
  t.after(() => stop.abort());
  const credentials = new NodeCredentials({
    ...{ node: "node1" as NodeName, trustDomain: domain, runDir, tokenFile: join(runDir, "token") },
    ...{ clock: systemClock, random: systemRandom, log: silentLogger },
    service: {
      join: (request) => Promise.resolve(answers[asked.push(request) - 1] ?? lost),
      renew: () => Promise.resolve(lost),
    },
    changed: () => {},
  });
  const running = credentials.run(stop.signal);
  await waitFor("attempts", () => asked.length === answers.length);
  const isOk = answers.at(-1)?.ok === true;
  if (isOk) await waitFor("the key is put away", () => !existsSync(join(runDir, "node-join.json")));
  stop.abort();
  await running;
  return { csrs: asked.map((request) => request.csrPem), credential: credentials.current() };
}

test("[IDN-3] a join whose answer was lost is put again with the same key, also by the agent after one that was killed", async (t) => {
  const runDir = mkdtempSync(join(tmpdir(), "fl-join-"));
  t.after(() => rmSync(runDir, { recursive: true }));
  const before = await joinWith(t, runDir, [lost, lost, lost]);
  const after = await joinWith(t, runDir, [lost, ok({ chainPem: await certificate(), rootsPem: "" })]);
  assert.equal(new Set([...before.csrs, ...after.csrs]).size, 1);
  assert.equal(after.credential.ok, true);

  rmSync(join(runDir, "node-credential.json"));
  const anew = await joinWith(t, runDir, [lost]);
  assert.notEqual(anew.csrs[0], before.csrs[0], "a key that has its certificate is not asked for again");
});

test("[IDN-3] [DIS-9] a damaged file of the key stops no join", async (t) => {
  for (const text of ["", "{", "null", '{"node":"another","keyPem":"k","csrPem":"c"}', '{"node":"node1"}']) {
    const runDir = mkdtempSync(join(tmpdir(), "fl-join-"));
    t.after(() => rmSync(runDir, { recursive: true }));
    writeFileSync(join(runDir, "node-join.json"), text);
    const { csrs } = await joinWith(t, runDir, [lost, lost]);
    assert.match(csrs[0] ?? "", /BEGIN CERTIFICATE REQUEST/, text);
    assert.equal(csrs[0], csrs[1]);
  }
});
