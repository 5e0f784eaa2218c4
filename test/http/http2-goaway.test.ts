// What a foreign client makes of a connection that is drained, against what reached the agent: whatever it reports as refused had never left it.
import assert from "node:assert/strict";
import { type ClientHttp2Session, connect, createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { systemClock } from "../../agent/base/clock.ts";
import { startLane } from "../kit/http-lane.ts";
import { waitFor } from "../kit/wait.ts";

/** Whether it was answered; undefined: refused, as Node says of streams that it had not written when GOAWAY came. */
function ask(client: ClientHttp2Session, path: string): Promise<boolean | undefined> {
  return new Promise((resolve, reject) => {
    const refused = (error: Error & { code?: string }): void =>
      /GOAWAY_SESSION|INVALID_SESSION|NGHTTP2_REFUSED_STREAM/.test(`${error.code} ${error.message}`)
        ? resolve(undefined)
        : reject(error);
    try {
      const stream = client.request({ ":path": path, ":method": "POST" });
      let isGood = false;
      stream.on("response", (headers) => {
        isGood = headers[":status"] === 200;
      });
      stream.on("error", refused).on("end", () => resolve(isGood));
      stream.resume().end("x");
    } catch (error) {
      refused(error as Error);
    }
  });
}

test("[DIS-6] [TRF-7] what Node's client refuses by itself when GOAWAY comes had never left it; all that reached the agent is answered", async (t) => {
  const server = createServer((request, response) => void request.resume().on("end", () => response.end("answer")));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const lane = await startLane((server.address() as AddressInfo).port, { upstream: "http2" });
  const clients: ClientHttp2Session[] = [];
  t.after(async () => {
    for (const client of clients) client.destroy();
    await lane[Symbol.asyncDispose]();
    server.close();
  });
  const rounds = 20;
  const each = 60;
  const outcomes: (boolean | undefined)[] = [];
  for (let round = 0; round < rounds; round++) {
    const client = connect(`http://127.0.0.1:${lane.port}`).on("error", () => {});
    clients.push(client);
    outcomes.push(await ask(client, "/first"));
    const all = Array.from({ length: each }, async (_, n) => {
      await systemClock.sleep(n % 4);
      outcomes.push(await ask(client, `/${n}`));
    });
    await systemClock.sleep(round % 4);
    for (const connection of lane.connections) connection.drain();
    await Promise.all(all);
  }
  const answered = outcomes.filter((outcome) => outcome === true).length;
  assert.equal(outcomes.length, rounds * (each + 1));
  assert.ok(!outcomes.includes(false), "answered with another status");
  await waitFor("all ends", () => lane.ended.length >= answered);
  await waitFor("the connections' ends", () => lane.connections.size === 0);
  assert.equal(lane.ended.length, answered, "one that the client calls refused had reached the agent");
  assert.deepEqual(new Set(lane.ended.map(({ outcome }) => outcome)), new Set(["finished"]));
});
