// scripts/intercept-init in a namespace of its own, as a user without root who has CAP_NET_ADMIN alone. Needs root to set that up.
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { after, before } from "node:test";

// A copy that the user may read, wherever the checkout lies.
const folder = mkdtempSync(join(tmpdir(), "intercept-init-"));
const script = join(folder, "intercept-init");
const namespace = `flinit${process.pid}`;
const user = ["--reuid", "1234", "--regid", "1234", "--clear-groups"];

function run(command: string, ...args: readonly string[]): SpawnSyncReturns<string> {
  return spawnSync(command, args, { encoding: "utf8", timeout: 60_000 });
}

function inside(...args: readonly string[]): SpawnSyncReturns<string> {
  return run("ip", "netns", "exec", namespace, ...args);
}

/** The script by that user with nothing but the named capability ("" for none). */
function init(capability: string, ...args: readonly string[]): SpawnSyncReturns<string> {
  const set = capability ? `-all,+${capability}` : "-all";
  const sets = ["--inh-caps", set, "--ambient-caps", set, "--bounding-set", set];
  return inside("setpriv", ...user, ...sets, "--", "sh", script, ...args);
}

function ruleset(): string {
  return inside("nft", "list", "ruleset").stdout;
}

before(() => {
  copyFileSync(join(import.meta.dirname, "../../scripts/intercept-init"), script);
  chmodSync(folder, 0o755);
  const made = run("sh", "-ec", `ip netns add ${namespace}; ip -n ${namespace} link set lo up`);
  assert.equal(made.status, 0, `namespaces need root: ${made.stderr}`);
  const link = `ip -n ${namespace} link add d0 type veth peer name d1; ip -n ${namespace} addr add 10.79.0.1/24 dev d0`;
  assert.equal(
    run("sh", "-ec", `${link}; ip -n ${namespace} link set d0 up; ip -n ${namespace} link set d1 up`).status,
    0,
  );
});
after(() => {
  rmSync(folder, { recursive: true, force: true });
  run("ip", "netns", "del", namespace);
});

/** Exit code of a TCP connect to an address that nobody has: 7 refused (redirected, no proxy), 28 no answer (left alone). */
function connect(uid: string): number | null {
  const code = `const s = require("node:net").connect(80, "10.79.0.9");
    s.on("error", (e) => process.exit(e.code === "ECONNREFUSED" ? 7 : 28));
    setTimeout(() => process.exit(28), 2500);`;
  return inside("setpriv", "--reuid", uid, "--clear-groups", "--", process.execPath, "-e", code).status;
}

for (const tool of ["nft", "iptables"]) {
  test(`[INT-6] [INT-10] with CAP_NET_ADMIN alone and no root ${tool} redirects all but the proxy's user`, () => {
    const done = init("net_admin", "--tool", tool, "--uid", "1337", "--exclude-cidr", "fd00::/8");
    assert.equal(done.status, 0, done.stderr);
    assert.equal(init("net_admin", "--tool", tool, "--uid", "1337").status, 0, "a second time is no error");
    assert.deepEqual([connect("1000"), connect("1337")], [7, 28]);
    assert.equal(init("net_admin", "--tool", tool, "--remove").status, 0);
    assert.doesNotMatch(ruleset(), /fairlead/i);
    assert.equal(connect("1000"), 28);
  });
}

test("[INT-10] without CAP_NET_ADMIN one line names it", () => {
  const done = init("", "--uid", "1337");
  assert.equal(done.status, 4);
  assert.match(done.stderr, /^intercept-init: CAP_NET_ADMIN is missing[^\n]*\n$/);
});

test("[INT-6] bad arguments are named, --dry-run changes nothing, --help tells", () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /--uid, --gid or --mark/],
    [["--uid", "1", "--port", "70000"], /--port is 70000/],
    [["--uid", "1", "--exclude-cidr", "10.0.0.0/8; flush ruleset"], /--exclude-cidr/],
    [["--mark", "0x1g"], /--mark/],
    [["--frob", "1"], /--frob/],
  ];
  for (const [args, said] of cases) {
    const done = init("net_admin", ...args);
    assert.deepEqual([done.status, said.test(done.stderr)], [2, true], done.stderr);
  }
  const before = ruleset();
  assert.match(init("net_admin", "--dry-run", "--uid", "1").stdout, /redirect to :15001/);
  assert.equal(ruleset(), before);
  assert.match(init("net_admin", "--help").stdout, /--exclude-cidr/);
});
