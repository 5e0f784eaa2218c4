// HTTP/1.1 and HTTP/2 on either side of the lane: whatever a client asks arrives at the server as it was meant, and the other way round.
import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, createServer as createHttp1, request } from "node:http";
import { connect, createServer as createHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import type { Readable, Writable } from "node:stream";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { startLane } from "../kit/http-lane.ts";
import { anyAsked, anyPlan } from "../kit/versions-arbitraries.ts";
import { type Asked, ask1, ask2, expected, type Planned, planServer } from "../kit/versions-model.ts";

async function pass(t: TestContext, from: 1 | 2, to: 1 | 2): Promise<(asked: Asked, plan: Planned) => Promise<void>> {
  const server = await planServer(to === 2);
  const lane = await startLane(server.port, { upstream: to === 2 ? "http2" : "http1" });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const session = connect(`http://127.0.0.1:${lane.port}`);
  t.after(async () => {
    agent.destroy();
    session.destroy();
    await lane[Symbol.asyncDispose]();
    server.close();
  });
  return async (asked, plan) => {
    const got = from === 1 ? await ask1(lane.port, agent, asked, plan) : await ask2(session, asked, plan);
    assert.deepEqual(got, expected(asked, plan, from, to));
    assert.deepEqual([lane.refused, lane.threw], [[], []]);
  };
}

for (const from of [1, 2] as const)
  for (const to of [1, 2] as const)
    test(`[TRF-7] HTTP/${from} to HTTP/${to}: method, path, fields, cookies, body, trailers and interim answers against a plain model`, async (t) => {
      const check = await pass(t, from, to);
      await fc.assert(fc.asyncProperty(anyAsked, anyPlan, check), { numRuns: 60 });
    });

/** A server of that version that says "continue" as Node's do, and sends back what comes. */
async function echoing(t: TestContext, isHttp2: boolean): Promise<number> {
  const echo = (request: Readable, response: Writable): void => void request.pipe(response);
  const server = isHttp2 ? createHttp2(echo as never) : createHttp1(echo);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    if ("closeAllConnections" in server) server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

for (const to of [1, 2] as const)
  test(`[TRF-7] a client that waits to be told to go on is told so by its server (HTTP/${to}), and then sends its body`, async (t) => {
    const lane = await startLane(await echoing(t, to === 2), { upstream: to === 2 ? "http2" : "http1" });
    const session = connect(`http://127.0.0.1:${lane.port}`);
    t.after(async () => {
      session.destroy();
      await lane[Symbol.asyncDispose]();
    });
    const first = request({
      port: lane.port,
      method: "POST",
      // As Java writes it; it means the same (RFC 9110 §10.1.1), but not to every server of HTTP/2.
      headers: { expect: "100-Continue", "content-length": "5" },
    });
    t.after(() => first.destroy());
    first.flushHeaders();
    await once(first, "continue");
    const answered = once(first, "response");
    first.end("first");
    const [answer] = (await answered) as [Readable];
    let text = "";
    for await (const part of answer) text += String(part);
    const second = session.request({ ":method": "POST", expect: "100-continue" }, { endStream: false });
    await once(second, "continue");
    second.end("second");
    for await (const part of second as AsyncIterable<Buffer>) text += part.toString();
    assert.equal(text, "firstsecond");
  });
