// Where access log lines go: files, syslog over real sockets, and what happens when the other end is full, slow or gone.
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { type TestContext, test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { openAccessLog } from "./access-log.ts";
import { mostQueued, type SinkParts, StreamSink } from "./line-sink.ts";

const masks = { addresses: false, queries: false };
function parts(more: Partial<SinkParts> = {}): { readonly sink: SinkParts; readonly lost: { count: number } } {
  const lost = { count: 0 };
  const dropped = (count: number): void => {
    lost.count += count;
  };
  return { sink: { clock: systemClock, hostname: "node1", pid: 7, dropped, ...more }, lost };
}
/** `<134>1 TIME node1 fairlead 7 access - TEXT` */
const message = /^<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z node1 fairlead 7 access - (.*)$/s;

test("[OBS-3] targets that are none are named, with those there are", () => {
  for (const bad of [
    "syslog",
    "stderr",
    "file:",
    "syslog:udp:host",
    "syslog:tls:host:1",
    "syslog:unix:x",
    "syslog:tcp:h:0",
  ]) {
    const opened = openAccessLog(bad, masks, parts().sink);
    assert.ok(!opened.ok && opened.error.includes(`"${bad}"`) && opened.error.includes("syslog:udp:HOST:PORT"), bad);
  }
  const off = openAccessLog("off", masks, parts().sink);
  assert.ok(off.ok && !off.value.isOn);
});

test("[OBS-3] syslog over UDP: one message a line", async (t) => {
  const server = createSocket("udp4");
  t.after(() => server.close());
  await new Promise<void>((resolve) => server.bind(0, "127.0.0.1", resolve));
  const got: string[] = [];
  server.on("message", (bytes) => got.push(bytes.toString()));
  const { sink, lost } = parts();
  const opened = openAccessLog(`syslog:udp:127.0.0.1:${server.address().port}`, masks, sink);
  assert.ok(opened.ok);
  // The socket is ready when a line is no longer lost.
  let sent = 0;
  await waitFor("a message", () => {
    opened.value.requests('{"a":1}\n{"b":2}\n', 2);
    sent += 2;
    return got.length >= 4;
  });
  await opened.value.close();
  assert.deepEqual(
    got.slice(0, 2).map((text) => message.exec(text)?.[1]),
    ['{"a":1}', '{"b":2}'],
  );
  assert.ok(got.length + lost.count <= sent);
});

/** A server of streams that keeps what it reads. */
async function listening(
  t: TestContext,
  where: number | string,
): Promise<{ server: Server; text: () => string; sockets: Set<Socket> }> {
  const sockets = new Set<Socket>();
  let text = "";
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(where as never, resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { server, text: () => text, sockets };
}

test("[OBS-3] syslog over TCP counts octets, connects again, and counts the lines of the time between", async (t) => {
  const first = await listening(t, 0);
  const { port } = first.server.address() as AddressInfo;
  const clock = createFakeClock();
  const { sink, lost } = parts({ clock });
  const opened = openAccessLog(`syslog:tcp:127.0.0.1:${port}`, masks, sink);
  assert.ok(opened.ok);
  t.after(() => opened.value.close());
  opened.value.requests('{"early":1}\n', 1);
  assert.equal(lost.count, 1, "not connected yet");
  await waitFor("connected", () => {
    opened.value.requests('{"x":"é"}\n', 1);
    return first.text() !== "";
  });
  const [, octets = "", rest = ""] = /^(\d+) (.*)$/s.exec(first.text()) ?? [];
  assert.equal(message.exec(Buffer.from(rest).subarray(0, Number(octets)).toString())?.[1], '{"x":"é"}');
  for (const socket of first.sockets) socket.destroy();
  const before = lost.count;
  await waitFor("lost", () => {
    opened.value.requests('{"y":1}\n', 1);
    return lost.count > before;
  });
  const seen = first.text().length;
  await waitFor("again", () => {
    clock.advance(1_000);
    opened.value.requests('{"z":1}\n', 1);
    return first.text().length > seen && first.text().includes('{"z":1}');
  });
});

test("[OBS-3] syslog over a stream socket of the unix domain: each message ends with a line end", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "syslog-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "log.sock");
  const { text } = await listening(t, path);
  const opened = openAccessLog(`syslog:unix:${path}`, masks, parts().sink);
  assert.ok(opened.ok);
  await waitFor("a message", () => {
    opened.value.requests('{"a":1}\n', 1);
    return text() !== "";
  });
  await opened.value.close();
  for (const line of text().trimEnd().split("\n")) assert.equal(message.exec(line)?.[1], '{"a":1}');
});

test("[OBS-3] a file has whole lines, and is opened again after the disk was full", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "access-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = openAccessLog(`file:${join(folder, "log")}`, masks, parts().sink);
  assert.ok(file.ok);
  for (let i = 0; i < 100; i++) file.value.requests(`{"n":${i}}\n{"m":${i}}\n`, 2);
  await file.value.close();
  const lines = readFileSync(join(folder, "log"), "utf8").split("\n").filter(Boolean);
  assert.deepEqual([lines.length, JSON.parse(lines.at(-1) as string)], [200, { m: 99 }]);

  const clock = createFakeClock();
  const { sink, lost } = parts({ clock });
  let broken = true;
  const opened: PassThrough[] = [];
  const reopened = new StreamSink(
    () => {
      const stream = new PassThrough();
      opened.push(stream);
      if (broken) stream.destroy(new Error("ENOSPC"));
      return stream;
    },
    sink,
    true,
  );
  t.after(() => reopened.close());
  await systemClock.sleep(0);
  reopened.write("a\n", 3);
  assert.equal(lost.count, 3);
  broken = false;
  clock.advance(10_000);
  reopened.write("b\n", 1);
  assert.deepEqual([lost.count, opened.length, opened[1]?.read()?.toString()], [3, 2, "b\n"]);
});

test("[OBS-3] a reader that does not read costs lines beyond a bound, never memory without one", (t) => {
  const { sink, lost } = parts();
  const stuck = new PassThrough();
  t.after(() => stuck.destroy());
  const log = new StreamSink(() => stuck, sink, false);
  const line = `${"x".repeat(1_023)}\n`;
  for (let i = 0; i < 10_000; i++) log.write(line, 1);
  assert.ok(stuck.writableLength <= mostQueued + 2_048, String(stuck.writableLength));
  assert.ok(lost.count > 5_000 && lost.count < 6_500, String(lost.count));
});
