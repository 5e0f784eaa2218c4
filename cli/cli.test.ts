// The command line as text in, text and exit code out: words, help, errors, tables. What needs a running lab is under test/netns/.
import assert from "node:assert/strict";
import test from "node:test";
import { type Command, pairs, readCall, UsageError, wholeNumber } from "./command.ts";
import { draw, linesOf } from "./connections.ts";
import { main } from "./main.ts";
import { distance, listed, nearest } from "./nearest.ts";
import { bytes, cell, duration, printable, table } from "./table.ts";

async function fairlead(
  ...argv: readonly string[]
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  const out: string[] = [];
  const err: string[] = [];
  const code = await main(argv, { out: (l) => out.push(l), err: (l) => err.push(l), colour: false });
  return { code, out: out.join("\n"), err: err.join("\n") };
}

test("[OPS-3] without words, and with help, the commands are listed; each has its own help", async () => {
  for (const words of [[], ["help"], ["--help"]]) {
    const shown = await fairlead(...words);
    assert.equal(shown.code, 0);
    for (const name of ["demo", "status", "certs", "explain", "top", "lab up", "lab exec", "lab down"])
      assert.ok(shown.out.includes(`  ${name} `), name);
  }
  assert.match((await fairlead("help", "lab", "up")).out, /Usage: fairlead lab up --manifests DIR[\s\S]*--nodes N/);
  assert.match((await fairlead("explain", "--help")).out, /Exit code 0 if it is allowed, 3 if it is refused/);
  const group = await fairlead("lab");
  assert.deepEqual([group.code, /fairlead lab restart-agent NODE/.test(group.out)], [2, true]);
});

test("[OPS-3] wrong use names the word and the fix, exit code 2", async () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["nonsense"], /there is no command nonsense; fairlead help lists them/],
    [["lab", "up"], /--manifests is missing: give the folder/],
    [["lab", "up", "-m", "/tmp", "--nodes", "0"], /--nodes 0: give a whole number from 1 to 200/],
    [["lab", "up", "-m", "/tmp", "--interception", "magic"], /--interception magic: use ebpf, nftables or auto/],
    [["lab", "up", "--colour"], /Unknown option '--colour'/],
    [["lab", "exec", "pod"], /name the pod as NAMESPACE\/POD/],
    [["lab", "exec", "a/b"], /give the command after --/],
    [["lab", "delete", "Pod"], /give KIND NAMESPACE\/NAME, or -f FILE/],
    [["lab", "up", "-m", "/tmp", "--agent-env", "X"], /--agent-env X: write NAME=VALUE/],
    [["explain", "a/b"], /give the source pod and the destination/],
  ];
  for (const [words, expected] of cases) {
    const shown = await fairlead(...words);
    assert.match(shown.err, expected);
    assert.equal(shown.code, 2, words.join(" "));
  }
});

test("[OPS-3] an absent lab is one line, exit code 1", async () => {
  for (const words of [
    ["status", "--lab", "nosuchlab"],
    ["lab", "status", "--name", "nosuchlab"],
    ["top", "--lab", "nosuchlab"],
    ["certs", "--lab", "nosuchlab"],
    ["connections", "--lab", "nosuchlab"],
    ["explain", "a/b", "a/c:80", "--lab", "nosuchlab"],
    ["lab", "exec", "a/b", "--name", "nosuchlab", "--", "true"],
    ["lab", "restart-agent", "node1", "--name", "nosuchlab"],
    ["lab", "stop-controller", "--name", "nosuchlab"],
    ["lab", "delete", "Pod", "a/b", "--name", "nosuchlab"],
    ["lab", "logs", "node1", "--name", "nosuchlab"],
  ]) {
    const shown = await fairlead(...words);
    assert.equal(shown.code, 1);
    assert.match(
      shown.err,
      /there is no lab nosuchlab(; labs here: |, nor any other; fairlead lab up --manifests DIR brings one up)/,
    );
    assert.equal(shown.err.split("\n").length, 1);
    assert.equal(shown.out, "");
  }
  const asJson = await fairlead("status", "--lab", "nosuchlab", "--json");
  assert.match((JSON.parse(asJson.out) as { error: string }).error, /^there is no lab nosuchlab/);
});

test("[OPS-3] a slip of the hand is answered by what was meant", async () => {
  const cases: readonly (readonly [readonly string[], RegExp, number])[] = [
    [["stauts"], /there is no command stauts; did you mean status\?$/, 2],
    [["lab", "ups"], /there is no command lab ups; did you mean lab up\?$/, 2],
    [["lab", "restart"], /there is no command lab restart; did you mean lab restart-agent\?$/, 2],
    [["lba", "up"], /there is no command lba; did you mean lab\?$/, 2],
    [["lab", "status", "--jsno"], /Unknown option '--jsno'; did you mean --json\?/, 2],
    [["help", "explian"], /did you mean explain\?$/, 2],
  ];
  for (const [words, expected, code] of cases) {
    const shown = await fairlead(...words);
    assert.match(shown.err, expected);
    assert.equal(shown.code, code);
  }
  assert.equal((await fairlead("lab", "--help")).code, 0);
});

test("[OPS-3] the nearest name, and none where nothing is near", () => {
  assert.deepEqual(
    [distance("lab", "lab"), distance("ab", "ba"), distance("", "abc"), distance("kitten", "sitting")],
    [0, 1, 3, 3],
  );
  const pods = ["shop/web", "shop/client", "other/web"];
  assert.equal(nearest("shop/clinet", pods), "shop/client");
  assert.equal(nearest("Shop/Web", pods), "shop/web");
  assert.equal(nearest("payments", pods), undefined);
  assert.equal(nearest("shop/", pods), undefined, "two begin so");
  assert.equal(listed(["a", "b", "c"], 2), "a, b and 1 more");
});

test("[OPS-3] words after -- belong to the program, whatever they look like", () => {
  const command: Command = {
    name: "x",
    usage: "x",
    summary: "",
    options: { n: { type: "string", help: "" }, e: { type: "string", multiple: true, help: "" } },
    run: async () => 0,
  };
  const output = { out: () => undefined, err: () => undefined, colour: false };
  const call = readCall(command, ["a", "--n", "7", "--e", "A=1", "--e", "B=x=y", "--", "-n", "--json"], output);
  assert.deepEqual(
    [call.words, call.rest, wholeNumber(call, "n", 1, 1, 9), pairs(call, "e")],
    [["a"], ["-n", "--json"], 7, { A: "1", B: "x=y" }],
  );
  assert.throws(() => readCall(command, ["--zz"], output), UsageError);
});

test("[OBS-3] tables align, carry colour only when asked, and pass no control character to the terminal", () => {
  const rows = [
    ["a", cell("yes", "green")],
    ["longer", "\u001b[31mred\nline"],
  ] as const;
  assert.equal(table(["NAME", "OK"], rows, false), "NAME    OK\na       yes\nlonger  ?[31mred?line");
  assert.ok(table(["NAME", "OK"], rows, true).includes("\u001b[32myes\u001b[0m"));
  assert.equal(printable("a\u0000b\u009bc"), "a?b?c");
});

test("[OBS-3] sizes and durations are in the unit that reads best", () => {
  assert.deepEqual([0, 999, 1000, 123_456, 5e9].map(bytes), ["0 B", "999 B", "1.0 kB", "123 kB", "5.0 GB"]);
  assert.deepEqual([0.25, 3.14, 250, 1500, 65_000, 119_800, 86_390_000, 86_400_000].map(duration), [
    "250 µs",
    "3.1 ms",
    "250 ms",
    "1.5 s",
    "1 min 5 s",
    "2 min 0 s",
    "24 h 0 min",
    "24 h 0 min",
  ]);
});

test("[OBS-3] top counts a tunnelled connection once, though both ends tell of it; refusals apart", () => {
  const record = {
    lane: "tunnel",
    "src.workload": "a/x",
    "src.identity": "spiffe://d/ns/a/sa/x",
    "dst.service": "a/s",
    sent: 10,
    received: 20,
    ready_us: 2000,
  };
  const refused = { ...record, lane: "none", sent: 0, received: 0 };
  const stranger = {
    lane: "none",
    direction: "inbound",
    "src.workload": null,
    "src.identity": null,
    "src.addr": "10.0.0.1:5",
    "dst.service": "a/s",
  };
  const lines = linesOf(
    [],
    [
      { ...record, direction: "outbound" },
      { ...record, direction: "inbound" },
      { ...refused, direction: "outbound" },
      { ...refused, direction: "inbound" },
      stranger,
    ],
  );
  assert.deepEqual(lines.map((l) => [l.source, l.lane, l.ended, l.refused, l.sent, l.readyMs]).sort(), [
    ["10.0.0.1", "none", 0, 1, 0, 0],
    ["a/x", "none", 0, 1, 0, 0],
    ["a/x", "tunnel", 1, 0, 10, 2],
  ]);
});

test("[OBS-3] top shows no bytes for connections whose requests are counted one by one, and those of one carried whole", () => {
  const record = { lane: "http", direction: "outbound", "src.workload": "a/x", "dst.service": "a/s", ready_us: 0 };
  const cells = (r: object): string[] =>
    draw(linesOf([], [{ ...record, ...r }]), false)
      .split("\n")[1]
      ?.split(/ {2,}/) ?? [];
  assert.deepEqual(cells({ sent: 0, received: 0 }), ["a/x", "a/s", "http", "0", "1", "0", "-", "-", "-"]);
  assert.deepEqual(cells({ sent: 10, received: 2000 }).slice(6, 8), ["10 B", "2.0 kB"]);
});
