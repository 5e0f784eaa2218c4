import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { buildModule } from "../../cluster/compile/build.ts";
import { skipApi } from "../../cluster/kit.ts";
import { Authority } from "../../cluster/kubernetes/pki.ts";
import { cacheFolder } from "../../cluster/paths.ts";
import { type Finished, finish } from "../../lab/command.ts";
import { echoModule } from "./modules.ts";

const skip = skipApi;
const timeout = 1_800_000;
const folder = mkdtempSync(join(tmpdir(), "fairlead-echo-test-"));
const program = (name: string): string => join(folder, name);
/** Kind -> port. */
const ports = new Map<string, string>();
let server: ChildProcess | undefined;

const client = (...words: string[]): Promise<Finished> => finish([program("client"), ...words], { timeoutMs: 60_000 });
async function asked(...words: string[]): Promise<string> {
  const done = await client(...words);
  assert.equal(done.code, 0, done.stderr);
  return done.stdout;
}
const url = (kind: string): string => `${kind}://127.0.0.1:${ports.get(kind)}`;

before(
  async () => {
    if (skip !== false) return;
    const built = await buildModule(cacheFolder(process.env), echoModule, console.error);
    for (const name of ["server", "client"]) symlinkSync(join(built.folder, "echo"), program(name));
    const own = await (await Authority.make("echo", Date.now())).issue({ commonName: "echo", names: ["echo"] });
    writeFileSync(program("crt"), own.certPem);
    writeFileSync(program("key"), own.keyPem);
    const flags = ["--tcp=0", "--grpc=0", "--port=0", "--version=v7"];
    const plain = spawn(program("server"), flags, { stdio: ["ignore", "ignore", "pipe"] });
    server = plain;
    const said = await new Promise<string>((resolve, reject) => {
      let text = "";
      plain.once("error", reject);
      plain.once("close", () => reject(new Error(text)));
      plain.stderr.on("data", (b: Buffer) => {
        text += b.toString();
        if (text.includes("\n")) resolve(text);
      });
    });
    for (const [, kind = "", port = ""] of said.matchAll(/(\w+) \S*:(\d+)/g)) ports.set(kind, port);
  },
  { timeout },
);
after(() => {
  server?.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

test("[TRF-1] the echo client tells what the server saw, in the lines that the suite reads", {
  skip,
  timeout,
}, async () => {
  // Flags after the address, as the suite gives them.
  const said = await asked(
    `${url("http")}/a/b?x=1`,
    "--method=PUT",
    "-H",
    "X-One: 1",
    "-H",
    "x-one:2",
    "-H",
    "Host:other",
  );
  const lines = said.split("\n");
  for (const line of [
    "[0] StatusCode=200",
    "[0] ResponseHeader=Content-Type:text/plain",
    "[0 body] ServiceVersion=v7",
    `[0 body] ServicePort=${ports.get("http")}`,
    "[0 body] Host=other",
    "[0 body] URL=/a/b?x=1",
    "[0 body] Method=PUT",
    "[0 body] Proto=HTTP/1.1",
    "[0 body] RequestHeader=X-One:1",
    "[0 body] RequestHeader=X-One:2",
    `[0 body] Hostname=${hostname()}`,
  ])
    assert.ok(lines.includes(line), `${line} in\n${said}`);
  assert.match(await asked("--http2", url("http")), /\[0 body\] Proto=HTTP\/2\.0\n/);
});

test("[TRF-1] many requests of one call are parted by empty lines", { skip, timeout }, async () => {
  for (const kind of ["http", "grpc"]) {
    const answers = (await asked(url(kind), "--count=5")).trimEnd().split("\n\n");
    assert.equal(answers.length, 5);
    for (const [i, answer] of answers.entries())
      assert.match(answer, new RegExp(`\\[${i} body\\] Hostname=${hostname()}$`, "m"));
  }
});

test("[TRF-1] gRPC: metadata and message reach the server", { skip, timeout }, async () => {
  const said = await asked(url("grpc"), "-H", "x-one:1", "--msg=good day");
  assert.match(said, /^\[0 body\] StatusCode=200$/m);
  assert.match(said, /^\[0 body\] RequestHeader=X-One:1$/m);
  assert.match(said, /^\[0 body\] URL=\/proto\.EchoTestService\/Echo$/m);
  assert.match(said, /^\[0 body\] Echo=good day$/m);
});

test("[TRF-1] TCP: who answers, then what was sent", { skip, timeout }, async () => {
  const socket = connect(Number(ports.get("tcp")), "127.0.0.1");
  socket.end("one\ntwo\n");
  let said = "";
  for await (const chunk of socket) said += chunk;
  assert.match(said, new RegExp(`Proto=TCP\n[\\s\\S]*Hostname=${hostname()}\nEcho=one\nEcho=two\n$`));
});

test("[TRF-1] TLS on the ports that are said to have it; HTTP/2 by its protocol negotiation", {
  skip,
  timeout,
}, async () => {
  const certificate = [`--crt=${program("crt")}`, `--key=${program("key")}`];
  const child = spawn(program("server"), ["--port=0", "--tls=0", ...certificate], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  try {
    const port = await new Promise<string>((resolve, reject) => {
      child.once("close", () => reject(new Error("the server ended")));
      child.stderr.on("data", (b: Buffer) => resolve(/https \S*:(\d+)/.exec(b.toString())?.[1] ?? ""));
    });
    assert.match(await asked(`https://127.0.0.1:${port}`), /Proto=HTTP\/1\.1\n/);
    assert.match(await asked("--http2", `https://127.0.0.1:${port}`), /Proto=HTTP\/2\.0\n[\s\S]*Alpn=h2\n/);
  } finally {
    child.kill("SIGKILL");
  }
});

test("[TRF-1] wrong use of the echo workload is told, and what cannot be had fails", { skip, timeout }, async () => {
  const wrong: readonly [string, string[], RegExp][] = [
    ["client", [], /give one URL/],
    ["client", ["ftp://a"], /give http:\/\/, https:\/\/ or grpc:\/\//],
    ["client", ["http://a", "-H", "nothing"], /Name:value/],
    ["client", ["http://a", "--count=0"], /--count: at least 1/],
    ["server", ["--port=70000"], /0 to 65535/],
    ["server", ["--tls=1"], /--tls needs --crt and --key/],
    ["server", ["word"], /what is word/],
  ];
  for (const [name, words, message] of wrong) {
    const done = await finish([program(name), ...words], { timeoutMs: 60_000 });
    assert.equal(done.code, 2, `${name} ${words.join(" ")}`);
    assert.match(done.stderr, message);
  }
  const away = await client("http://127.0.0.1:1/");
  assert.equal(away.code, 1);
  assert.match(away.stderr, /request 0: .*refused/);
});
