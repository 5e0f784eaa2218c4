// The Workload API on a real socket with a real gRPC client; processes and control groups are files of a folder.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { firstJwtKeys, JwtSigner, jwksOf } from "../../controller/issue/jwt.ts";
import { makeRoot } from "../../controller/issue/pki.ts";
import { waitFor } from "../../test/kit/wait.ts";
import type { SpiffeId, TrustDomain } from "../api/names.ts";
import { SpiffeWorkloadAPIClient, type X509SVIDResponse } from "../api/spiffe.gen.ts";
import type { TrustBundle } from "../api/trust.ts";
import { systemClock } from "../base/clock.ts";
import { createLogger } from "../base/log.ts";
import { err, ok } from "../base/result.ts";
import type { StoredSvid } from "../identify/svid-files.ts";
import type { EnrolledPod } from "../intercept/enrol.ts";
import type { Native } from "../native.ts";
import { WorkloadSocket } from "./workload-socket.ts";

const identity = "spiffe://cluster.local/ns/shop/sa/web" as SpiffeId;
const domain = "cluster.local" as TrustDomain;
const uid = "00000001-1111-2222-3333-444444444444";
const pid = 40;

async function open() {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-workload-"));
  const proc = join(dir, "proc");
  const runs = (group: string, started = 1000): void => {
    mkdirSync(join(proc, `${pid}`), { recursive: true });
    const rest = Array.from({ length: 30 }, (_, i) => (i === 18 ? started : i)).join(" ");
    writeFileSync(join(proc, `${pid}/stat`), `${pid} (app) S ${rest}`);
    writeFileSync(join(proc, `${pid}/cgroup`), `0::${group}\n`);
  };
  mkdirSync(join(proc, "self"), { recursive: true });
  writeFileSync(join(proc, "self/mounts"), "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
  runs(`/kubepods/pod${uid}/c`);
  const root = await makeRoot(domain, Date.now());
  const keys = await firstJwtKeys(Date.now());
  const bundle: TrustBundle = { trustDomain: domain, rootsPem: [root.certPem], generation: 1, jwks: jwksOf(keys) };
  const listeners = new Set<() => void>();
  const svid = (chainPem: string): StoredSvid => ({
    identity,
    keyPem: root.keyPem,
    chainPem,
    issuedAtMs: Date.now(),
    notAfterMs: Date.now() + 3_600_000,
    trustGeneration: 1,
  });
  const now = {
    pods: [{ identity, host: { uid, cgroup: undefined } }] as unknown as readonly EnrolledPod[],
    svid: svid(root.certPem) as StoredSvid | undefined,
    jwtsAsked: 0,
    peer: { pid, uid: 0, gid: 0, pidfd: null as number | null },
  };
  const answers: string[] = [];
  const socket = new WorkloadSocket({
    path: join(dir, "workload/agent.sock"),
    procDir: proc,
    cgroup: "/sys/fs/cgroup",
    native: {
      call: async () => (now.peer.pid < 0 ? err({ code: "peer", message: "none" }) : ok(now.peer)),
    } as unknown as Native,
    clock: systemClock,
    log: createLogger("error", "test"),
    pods: () => now.pods,
    svid: () => now.svid,
    ready: async () => now.svid !== undefined,
    bundles: () => new Map([[domain, bundle]]),
    ownDomain: () => domain,
    aliases: () => ["other.test" as TrustDomain],
    async jwt(subject, audience) {
      now.jwtsAsked += 1;
      return ok(new JwtSigner(keys).sign({ subject, audience, issuedMs: Date.now(), lifeMs: 300_000 }));
    },
    onChange(changed) {
      listeners.add(changed);
      return () => listeners.delete(changed);
    },
    answered: (method, outcome) => answers.push(`${method} ${outcome}`),
  });
  assert.deepEqual(await socket.listen(), ok(undefined));
  const header = new Metadata();
  header.set("workload.spiffe.io", "true");
  const connect = () =>
    new SpiffeWorkloadAPIClient(`unix:${join(dir, "workload/agent.sock")}`, credentials.createInsecure());
  return {
    dir,
    now,
    runs,
    svid,
    root,
    answers,
    listeners,
    header,
    connect,
    changed: () => [...listeners].map((listener) => listener()),
    async [Symbol.asyncDispose]() {
      await socket.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
const codeOf = (error: unknown): number | undefined => (error as ServiceError | undefined)?.code;

test("[IDN-12] a pod's process gets its own SVID and bundle, and a new one as it is renewed, until it is no pod of ours", async () => {
  await using api = await open();
  const client = api.connect();
  try {
    const stream = client.fetchX509Svid({}, api.header);
    const got: X509SVIDResponse[] = [];
    let end: ServiceError | undefined;
    stream.on("data", (response: X509SVIDResponse) => got.push(response));
    stream.on("error", (error: ServiceError) => {
      end = error;
    });
    await waitFor("the first", () => got.length === 1);
    const [first] = got[0]?.svids ?? [];
    assert.equal(first?.spiffeId, identity);
    assert.deepEqual(first?.x509Svid, Buffer.from(new X509Certificate(api.root.certPem).raw));
    assert.deepEqual(first?.bundle, first?.x509Svid);
    assert.deepEqual(Object.keys(got[0]?.federatedBundles ?? {}), ["spiffe://other.test"]);
    api.changed(); // nothing did
    api.now.svid = api.svid(api.root.certPem + api.root.certPem);
    api.changed();
    await waitFor("the renewed one", () => got.length === 2);
    assert.equal(got[1]?.svids[0]?.x509Svid.length, (first?.x509Svid.length ?? 0) * 2);
    api.now.pods = [];
    api.changed();
    await waitFor("the end", () => end !== undefined);
    assert.equal(codeOf(end), status.PERMISSION_DENIED);
    assert.equal(got.length, 2);
    await waitFor("nobody listens", () => api.listeners.size === 0);
  } finally {
    client.close();
  }
});

test("[IDN-12] JWTs are for named audiences, kept while they hold, and validated by whoever asks", async () => {
  await using api = await open();
  const client = api.connect();
  const fetch = (audience: string[], spiffeId = "") =>
    new Promise<string>((resolve, reject) =>
      client.fetchJwtsvid({ audience, spiffeId }, api.header, (error, response) =>
        error === null ? resolve(response.svids[0]?.svid ?? "") : reject(error),
      ),
    );
  const validate = (audience: string, svid: string) =>
    new Promise<string>((resolve, reject) =>
      client.validateJwtsvid({ audience, svid }, api.header, (error, response) =>
        error === null ? resolve(`${response.spiffeId} ${response.claims?.fields.exp?.kind?.$case}`) : reject(error),
      ),
    );
  try {
    const token = await fetch(["vault", "db"]);
    assert.equal(await fetch(["db", "vault"]), token);
    assert.equal(api.now.jwtsAsked, 1);
    assert.notEqual(await fetch(["vault"]), token);
    assert.equal(await validate("db", token), `${identity} numberValue`);
    for (const [audience, svid] of [
      ["web", token],
      ["db", `${token.slice(0, -4)}AAAA`],
      ["db", "a.b.c"],
      ["", token],
    ] as const)
      await assert.rejects(validate(audience, svid), (error) => codeOf(error) === status.INVALID_ARGUMENT);
    await assert.rejects(fetch([]), (error) => codeOf(error) === status.INVALID_ARGUMENT);
    await assert.rejects(
      fetch(["db"], "spiffe://cluster.local/ns/shop/sa/db"),
      (e) => codeOf(e) === status.PERMISSION_DENIED,
    );
    const bundles = client.fetchJwtBundles({}, api.header);
    const first = await new Promise<{ bundles: Record<string, Buffer> }>((resolve, reject) => {
      bundles.once("data", resolve);
      bundles.once("error", reject);
    });
    bundles.on("error", () => {});
    bundles.cancel();
    const set = JSON.parse(first.bundles["spiffe://cluster.local"]?.toString() ?? "");
    assert.equal(set.keys[0].kid, JSON.parse(Buffer.from(token.split(".")[0] ?? "", "base64url").toString()).kid);
  } finally {
    client.close();
  }
});

test("[IDN-12] without the header, from outside of the mesh, or from an unknown process nothing is told", async () => {
  await using api = await open();
  const ends = async (metadata: Metadata): Promise<ServiceError> => {
    const client = api.connect();
    try {
      const stream = client.fetchX509Bundles({}, metadata);
      return await new Promise((resolve, reject) => {
        stream.on("error", resolve);
        stream.on("data", () => reject(new Error("it was told")));
      });
    } finally {
      client.close();
    }
  };
  assert.equal((await ends(new Metadata())).code, status.INVALID_ARGUMENT);
  api.runs("/system.slice/cron.service");
  assert.equal((await ends(api.header)).code, status.PERMISSION_DENIED);
  api.now.peer = { ...api.now.peer, pid: 0 };
  assert.equal((await ends(api.header)).code, status.UNAVAILABLE);
  api.now.peer = { ...api.now.peer, pid: -1 };
  assert.equal((await ends(api.header)).code, status.UNAVAILABLE);
});

test("[IDN-12] the socket is for everybody, its folder holds nothing else, and a successor takes the path over", async () => {
  await using api = await open();
  const path = join(api.dir, "workload/agent.sock");
  assert.equal(statSync(path).mode & 0o777, 0o666);
  assert.equal(existsSync(join(api.dir, `workload/agent.sock.${process.pid}`)), false);
});
