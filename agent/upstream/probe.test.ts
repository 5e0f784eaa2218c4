// Health checks of HTTP and TCP against real servers: what is asked, and what each kind of server comes to.
import assert from "node:assert/strict";
import { createServer as createHttp } from "node:http";
import { type AddressInfo, connect, createServer, type OnReadOpts, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { localPod, workload } from "../../test/kit/mesh.ts";
import type { HealthCheck } from "../api/http-policy.ts";
import type { ServiceName } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { err, ok } from "../base/result.ts";
import type { Target, TargetDialer } from "../forward/pools.ts";
import type { Replica } from "../replica.ts";
import { Member } from "./member.ts";
import { probeFor } from "./probe.ts";

const pod = localPod(workload("edge", "client", "10.244.1.5"));
const replica = { inNamespace: (name: string) => (name === "edge" ? pod : undefined) } as unknown as Replica;
const http: HealthCheck = {
  kind: "http",
  path: "/healthz",
  host: "",
  grpcService: "",
  port: 0,
  intervalMs: 60_000,
  timeoutMs: 60_000,
  unhealthy: 1,
  healthy: 1,
};
const tcp: HealthCheck = { ...http, kind: "tcp" };

/** Dials on this machine, and keeps what was asked for. */
function dialler(): { readonly dial: TargetDialer; readonly asked: Target[] } {
  const asked: Target[] = [];
  const dial = (target: Target, onread: OnReadOpts) => {
    asked.push(target);
    return new Promise<ReturnType<typeof ok<Socket>> | ReturnType<typeof err<string>>>((resolve) => {
      const socket = connect({ port: target.endpoint.port, host: "127.0.0.1", onread }, () => resolve(ok(socket)));
      socket.once("error", () => resolve(err("connect_failed")));
    });
  };
  return { dial: dial as unknown as TargetDialer, asked };
}
const memberAt = (port: number): Member => {
  const upstream = { ip: "10.244.2.9", port, mode: "plain", identities: [], weight: 1 };
  return new Member(upstream as unknown as Member["upstream"], 0, "m", 0, 0);
};
const portOf = (server: { address(): unknown }): number => (server.address() as AddressInfo).port;

async function listening(t: TestContext, answer: (socket: Socket) => void): Promise<number> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return portOf(server);
}
async function probed(port: number, check: HealthCheck, namespace = "edge") {
  const { dial, asked } = dialler();
  const probe = probeFor({ replica, dial, clock: systemClock })(namespace, "shop/web" as ServiceName);
  const found = await probe(memberAt(port), check);
  return { asked, found: found && `${found.isGood} ${found.why}` };
}

test("[RES-9] HTTP: an answer from 200 to 399 is good, another is not; its path and host are asked for", async (t) => {
  const seen: string[] = [];
  const server = createHttp((request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers.host}`);
    response.statusCode = Number(request.url?.slice(1)) || 200;
    response.end("x".repeat(100_000));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const port = portOf(server);
  assert.equal((await probed(port, http)).found, "true status_200");
  assert.equal((await probed(port, { ...http, path: "/302", host: "web.test" })).found, "true status_302");
  assert.equal((await probed(port, { ...http, path: "/404" })).found, "false status_404");
  assert.equal((await probed(port, { ...http, path: "/503" })).found, "false status_503");
  assert.deepEqual(seen.slice(0, 2), [`GET /healthz 10.244.2.9:${port}`, "GET /302 web.test"]);
});

test("[RES-9] HTTP: no answer in time, an end without one and no HTTP are failures", async (t) => {
  const silent = await listening(t, (socket) => void t.after(() => socket.destroy()));
  assert.equal((await probed(silent, { ...http, timeoutMs: 50 })).found, "false timeout");
  const ending = await listening(t, (socket) => void socket.resume().end());
  assert.match(String((await probed(ending, http)).found), /^false (closed|reset)$/);
  const odd = await listening(t, (socket) => void socket.resume().end("220 mail\r\n"));
  assert.match(String((await probed(odd, http)).found), /^false /);
});

test("[RES-9] TCP: a server that accepts is good and gets no byte; none is a failure; another port may be asked", async (t) => {
  let got = 0;
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  const port = await listening(t, (socket) => {
    socket.on("data", (bytes) => {
      got += bytes.length;
    });
    socket.on("error", () => {}).on("close", () => end());
  });
  const { asked, found } = await probed(1, { ...tcp, port });
  assert.equal(found, "true connected");
  await ended;
  assert.deepEqual([got, asked[0]?.pod, asked[0]?.source.ip], [0, "edge/client", "10.244.1.5"]);
  assert.equal((await probed(1, tcp)).found, "false connect_failed");
  assert.equal((await probed(port, tcp, "elsewhere")).found, undefined, "no pod of the clients' namespace is here");
});
