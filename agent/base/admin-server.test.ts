import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { waitFor } from "../../test/kit/wait.ts";
import { checkBody, isCleanPath } from "./admin-request.ts";
import { type AdminLimits, createAdminServer, defaultAdminLimits, json, type LineOut } from "./admin-server.ts";
import { silentLogger } from "./log.ts";

interface Answer {
  readonly status: number;
  readonly text: string;
}
function ask(
  socketPath: string,
  method: string,
  path: string,
  body = "",
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path, headers }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

async function withServer(limits: Partial<AdminLimits>, run: (path: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-admin-"));
  const path = join(dir, "admin.sock");
  const server = createAdminServer({
    log: silentLogger,
    limits: { ...defaultAdminLimits, ...limits },
    routes: [
      { method: "GET", path: "/v1/thing", handle: ({ query }) => json({ q: query.get("q") }) },
      {
        method: "POST",
        path: "/v1/thing",
        fields: { name: "string", count: "number?", tags: "string[]?" },
        handle: ({ body }) => json(body),
      },
      {
        method: "GET",
        path: "/v1/throws",
        handle() {
          throw new Error("it broke");
        },
      },
    ],
  });
  try {
    await server.listen({ path });
    await run(path);
  } finally {
    await server.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

test("[SEC-6] only listed paths, methods and fields are answered", async () => {
  await withServer({}, async (path) => {
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(await ask(path, "GET", "/v1/thing?q=a%20b"), { status: 200, text: '{"q":"a b"}\n' });
    assert.deepEqual(await ask(path, "POST", "/v1/thing", '{"name":"x","tags":["a"]}'), {
      status: 200,
      text: '{"name":"x","tags":["a"]}\n',
    });
    assert.equal((await ask(path, "HEAD", "/v1/thing")).text, "");
    for (const [method, at, body, status] of [
      ["GET", "/v1/other", "", 404],
      ["PUT", "/v1/thing", "", 405],
      ["GET", "/v1/./thing", "", 400],
      ["GET", "/v1/%74hing", "", 400],
      ["POST", "/v1/thing", '{"name":"x","more":1}', 400],
      ["POST", "/v1/thing", '{"name":"x","tags":[1]}', 400],
      ["POST", "/v1/thing", '{"__proto__":{"name":"x"}}', 400],
      ["POST", "/v1/thing", "\xff\xfe", 400],
      ["GET", "/v1/throws", "", 500],
    ] as const) {
      assert.equal((await ask(path, method, at, body)).status, status, `${method} ${at} ${body}`);
    }
  });
});

test("[SEC-6] a body over the limit is refused whether its length is told or not, and the connection ends", async () => {
  await withServer({ bodyBytes: 100 }, async (path) => {
    assert.equal((await ask(path, "POST", "/v1/thing", "x".repeat(101))).status, 413);
    assert.equal(
      (await ask(path, "POST", "/v1/thing", "x".repeat(50_000), { "transfer-encoding": "chunked" })).status,
      413,
    );
    assert.equal((await ask(path, "POST", "/v1/thing", '{"name":"x"}')).status, 200);
  });
});

test("[SEC-6] slow heads, slow bodies and idle connections are ended", async () => {
  const limits = { headMs: 300, readMs: 300, idleMs: 200 };
  await withServer(limits, async (path) => {
    for (const start of [
      "GET /v1/thi",
      "POST /v1/thing HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{",
      "GET /v1/thing HTTP/1.1\r\nhost: x\r\n\r\n",
    ]) {
      const began = performance.now();
      await new Promise<void>((resolve) => {
        const socket = connect(path, () => socket.write(start));
        socket.on("error", () => {});
        socket.on("close", () => resolve());
        socket.resume();
      });
      assert.ok(performance.now() - began < 4000, start);
    }
  });
});

test("the socket of a dead process is taken over, that of a living one is not", async () => {
  await withServer({}, async (path) => {
    const second = createAdminServer({ log: silentLogger, routes: [] });
    await assert.rejects(second.listen({ path }), /EADDRINUSE/);
  });
  const dir = mkdtempSync(join(tmpdir(), "fairlead-admin-"));
  try {
    const path = join(dir, "stale.sock");
    writeFileSync(path, "");
    const server = createAdminServer({ log: silentLogger, routes: [] });
    await server.listen({ path });
    await server.close();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("[SEC-6] no path with escapes, dots or other bytes is clean, and no body makes the check throw", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      if (isCleanPath(text)) assert.match(text, /^\/([A-Za-z0-9._~:-]+(\/[A-Za-z0-9._~:-]+)*)?$/);
      assert.ok(!isCleanPath(`${text}/..`) && !isCleanPath(`/a/%2e%2e/${text}`));
    }),
  );
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
      const result = checkBody(Buffer.from(text), { name: "string" });
      if (result.ok) assert.deepEqual(Object.keys(result.value), ["name"]);
    }),
  );
});

test("[OBS-3] an answer of lines goes on until the caller leaves; one that does not read is told so, and is not waited for", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-admin-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const path = join(dir, "admin.sock");
  let out: LineOut | undefined;
  let stopped = 0;
  const lines = (to: LineOut) => {
    out = to;
    to.write("first\n");
    return () => void stopped++;
  };
  const handle = () => ({ status: 200, body: undefined, lines });
  const server = createAdminServer({ log: silentLogger, routes: [{ method: "GET", path: "/v1/lines", handle }] });
  await server.listen({ path });
  t.after(() => server.close());
  const open = (): Promise<IncomingMessage> =>
    new Promise((resolve, reject) =>
      request({ socketPath: path, path: "/v1/lines", agent: false }, resolve).on("error", reject).end(),
    );
  const response = await open();
  let text = "";
  response.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  response.on("error", () => {});
  await waitFor("the first line", () => text === "first\n");
  assert.equal(out?.write("second\n"), true);
  await waitFor("the second", () => text === "first\nsecond\n");
  response.destroy();
  await waitFor("told of its end", () => stopped === 1);
  assert.equal(out?.write("x\n"), false);

  const stuck = await open();
  stuck.on("error", () => {});
  let taken = 0;
  while (taken < 100 && out?.write("x".repeat(100_000))) taken++;
  assert.ok(taken < 30, `${taken} of 100 kB each`);
  stuck.destroy();
  await waitFor("told of its end too", () => stopped === 2);
});
