// The ledger on disk: what was issued is known after a restart, a crash and a full disk.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { NodeName, SpiffeId } from "../../agent/api/names.ts";
import { silentLogger } from "../../agent/base/log.ts";
import type { Issued } from "../issue/authority.ts";
import { openStateFiles } from "../issue/state-files.ts";
import { Ledger } from "./ledger.ts";

const node = "node1" as NodeName;
const id = (i: number) => `spiffe://cluster.local/ns/shop/sa/a${i}` as SpiffeId;

function setUp(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "ledger-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const time = { now: 1_000_000 };
  const open = (files = openStateFiles(dir)) => new Ledger({ files, now: () => time.now, log: silentLogger });
  const issue = (ledger: Ledger, i: number, rootNumber = 1, lifeMs = 50_000) =>
    ledger.issued(node, id(i), { notAfterMs: time.now + lifeMs, rootNumber } as Issued);
  return { dir, time, open, issue, path: join(dir, "issued.jsonl") };
}

test("[IDN-9] [IDN-10] a controller that starts again knows what is out and under which root, since when", (t) => {
  const { open, issue, time } = setUp(t);
  const first = open();
  issue(first, 1);
  issue(first, 2, 2);
  issue(first, 1, 2);
  issue(first, 3, 1, 10);
  time.now += 1000;
  const second = open();
  assert.deepEqual(
    second.living().map((e) => [e.identity, e.rootNumber]),
    [
      [id(1), 2],
      [id(2), 2],
    ],
  );
  assert.equal(second.knownSinceMs, 1_000_000);
  issue(second, 4);
  assert.deepEqual(
    open()
      .underOtherRoots(2)
      .map((e) => e.identity),
    [id(4)],
  );
});

test("[IDN-10] a line cut by a crash costs nothing else; a lost file makes the ledger know from now on only", (t) => {
  const { open, issue, time, path } = setUp(t);
  const first = open();
  issue(first, 1);
  issue(first, 2);
  truncateSync(path, readFileSync(path).length - 7);
  assert.deepEqual(
    open()
      .living()
      .map((e) => e.identity),
    [id(1)],
  );
  rmSync(path);
  time.now += 5;
  assert.deepEqual([open().knownSinceMs, open().living().length], [time.now, 0]);
});

test("[IDN-10] renewals do not make the file grow without end; a full disk stops no certificate and is made up for", (t) => {
  const { dir, open, issue, time, path } = setUp(t);
  const files = openStateFiles(dir);
  const disk = { isFull: false };
  const unlessFull = (write: () => void): void => {
    if (disk.isFull) throw new Error("the disk is full");
    write();
  };
  const ledger = open({
    ...files,
    append: (name, text) => unlessFull(() => files.append(name, text)),
    write: (name, text) => unlessFull(() => files.write(name, text)),
  });
  for (let i = 0; i < 3000; i++) issue(ledger, i % 10);
  assert.ok(readFileSync(path, "utf8").split("\n").length < 1100);
  disk.isFull = true;
  time.now += 10;
  issue(ledger, 50);
  issue(ledger, 51);
  assert.equal(ledger.living().length, 12);
  disk.isFull = false;
  time.now += 10;
  issue(ledger, 52);
  const again = open();
  assert.deepEqual([again.living().length, again.knownSinceMs], [13, time.now]);
});
