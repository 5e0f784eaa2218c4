// HTTP/2 connections that wait for their namespace's turn: what was read beyond its time is kept, and all of it is answered in the end.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { type ClientHttp2Stream, connect, createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { startLane } from "../kit/http-lane.ts";
import { crowdedTenant } from "../kit/tenants.ts";

const longAnswer = "-".repeat(200_000);

/** A lane to a server that says what it was asked and the hash of what it got. */
async function crowded(t: TestContext, share: number) {
  const server = createServer((request, response) => {
    const sum = createHash("sha256");
    request.on("data", (chunk: Buffer) => sum.update(chunk));
    request.on("end", () => {
      if (request.url?.startsWith("/long") === true) response.write(longAnswer);
      response.end(`${request.url} ${sum.digest("hex")}`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { tenant, stop } = crowdedTenant(share);
  const lane = await startLane((server.address() as AddressInfo).port, { upstream: "http2", tenant });
  t.after(async () => {
    await lane[Symbol.asyncDispose]();
    stop();
    server.close();
  });
  return { lane, tenant };
}

/** All that comes on a stream; `look` is called with each part of it. */
function textOf(stream: ClientHttp2Stream, look: () => void): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      look();
      text += chunk;
    });
    stream.on("end", () => resolve(text));
    stream.on("error", reject);
  });
}

test("[SEC-8] [TRF-7] requests and bodies of HTTP/2 whose namespace must wait all arrive whole, however many came at once", async (t) => {
  const { lane, tenant } = await crowded(t, 0.05);
  let held = 0;
  const look = (): void => {
    held = Math.max(held, tenant.queue.length);
  };
  const sessions = Array.from({ length: 4 }, () => connect(`http://127.0.0.1:${lane.port}`));
  t.after(() => {
    for (const session of sessions) session.destroy();
  });
  const asked = sessions.flatMap((session, s) =>
    Array.from({ length: 60 }, (_, i) => {
      const path = `/${s}/${i}`;
      const body = Buffer.alloc(i % 3 === 0 ? 0 : (i * 7919) % 90_000, path);
      const stream = session.request({ ":path": path, ":method": "POST" });
      stream.end(body);
      const expected = `${path} ${createHash("sha256").update(body).digest("hex")}`;
      return textOf(stream, look).then((text) => text === expected);
    }),
  );
  const whole = await Promise.all(asked);
  assert.equal(whole.filter((is) => is).length, 240);
  assert.ok(held > 0, "somebody waited");
  assert.deepEqual(lane.threw, []);
});

test("[SEC-8] [TRF-7] long answers of HTTP/2 servers to a namespace that must wait arrive whole", async (t) => {
  const { lane, tenant } = await crowded(t, 0.05);
  let held = 0;
  const look = (): void => {
    held = Math.max(held, tenant.queue.length);
  };
  const session = connect(`http://127.0.0.1:${lane.port}`);
  t.after(() => session.destroy());
  const asked = Array.from({ length: 24 }, (_, i) => {
    const stream = session.request({ ":path": `/long/${i}` });
    return textOf(stream, look).then((text) => text.startsWith(`${longAnswer}/long/${i} `));
  });
  assert.ok((await Promise.all(asked)).every((is) => is));
  assert.ok(held > 0, "somebody waited");
  assert.deepEqual(lane.threw, []);
});
