// The SPIFFE Workload API: what an application gets to know of its own identity. Who asks is decided by the caller of these handlers, anew
// for each request and each message of a stream; here is what they get. Nobody gets another's SVID.
import { createPrivateKey, X509Certificate } from "node:crypto";
import { type ServerUnaryCall, type ServerWritableStream, type sendUnaryData, status } from "@grpc/grpc-js";
import type { SpiffeId, TrustDomain } from "../api/names.ts";
import type {
  JWTSVIDRequest,
  JWTSVIDResponse,
  SpiffeWorkloadAPIServer,
  ValidateJWTSVIDRequest,
  ValidateJWTSVIDResponse,
  X509SVIDResponse,
} from "../api/spiffe.gen.ts";
import type { TrustBundle } from "../api/trust.ts";
import type { Clock } from "../base/clock.ts";
import { err, ok, type Result } from "../base/result.ts";
import { structOf, validateJwtSvid } from "./jwt-svid.ts";
import type { StoredSvid } from "./svid-files.ts";

/** What of a call tells who makes it. */
export interface ApiCall {
  getPeer(): string;
  readonly metadata: { get(key: string): readonly (string | Buffer)[] };
}
export interface Jwt {
  readonly token: string;
  readonly notAfterMs: number;
}
export interface WorkloadApiParts {
  readonly clock: Clock;
  /** Whose the call is, or why it is nobody's, for the log. */
  readonly caller: (call: ApiCall) => Promise<Result<SpiffeId, string>>;
  readonly svid: (identity: SpiffeId) => StoredSvid | undefined;
  /** Waits until the identity has an SVID, at most so long. */
  readonly ready: (identity: SpiffeId, ms: number) => Promise<boolean>;
  readonly bundles: () => ReadonlyMap<TrustDomain, TrustBundle>;
  readonly ownDomain: () => TrustDomain;
  /** Other names of the own trust domain. */
  readonly aliases: () => readonly TrustDomain[];
  readonly jwt: (identity: SpiffeId, audience: readonly string[]) => Promise<Result<Jwt, string>>;
  /** Calls `changed` when SVIDs, bundles or pods may have changed; returns how to end that. */
  readonly onChange: (changed: () => void) => () => void;
  readonly answered: (method: string, outcome: "ok" | "denied" | "failed") => void;
  readonly denied: (method: string, reason: string) => void;
}

interface Fault {
  readonly code: number;
  readonly details: string;
}
type Answer<T> = Result<T, Fault>;
const svidWaitMs = 5_000;
/** JWTs that are kept, of all workloads together. */
const maxJwts = 4_096;
const fault = (code: number, details: string): Result<never, Fault> => err({ code, details });

export function workloadApi(parts: WorkloadApiParts): SpiffeWorkloadAPIServer {
  const jwts = new Map<string, Jwt & { readonly fetchedMs: number }>();

  const whose = async (method: string, call: ApiCall): Promise<Answer<SpiffeId>> => {
    // SPIFFE Workload Endpoint §6: without it somebody is made to ask (SSRF) who does not know it.
    if (call.metadata.get("workload.spiffe.io").join() !== "true")
      return fault(status.INVALID_ARGUMENT, 'the header "workload.spiffe.io: true" is missing');
    const caller = await parts.caller(call);
    if (caller.ok) return caller;
    parts.denied(method, caller.error);
    return fault(status.PERMISSION_DENIED, "no identity is issued to this process");
  };

  const domains = (): ReadonlyMap<string, TrustBundle> => {
    const all = new Map<string, TrustBundle>([...parts.bundles()]);
    const own = parts.bundles().get(parts.ownDomain());
    if (own !== undefined) for (const alias of parts.aliases()) if (!all.has(alias)) all.set(alias, own);
    return new Map([...all].map(([domain, bundle]) => [`spiffe://${domain}`, bundle]));
  };
  const own = (): string => `spiffe://${parts.ownDomain()}`;

  const x509Svid = (identity: SpiffeId): Answer<X509SVIDResponse> => {
    const svid = parts.svid(identity);
    const all = domains();
    const bundle = all.get(own());
    if (svid === undefined || bundle === undefined || svid.notAfterMs <= parts.clock.now())
      return fault(status.UNAVAILABLE, "there is no certificate for this identity yet");
    const others = [...all].filter(([domain]) => domain !== own());
    return ok({
      svids: [
        {
          spiffeId: identity,
          x509Svid: derOf(svid.chainPem),
          x509SvidKey: createPrivateKey(svid.keyPem).export({ type: "pkcs8", format: "der" }),
          bundle: rootsDer(bundle),
          hint: "",
        },
      ],
      crl: [],
      federatedBundles: Object.fromEntries(others.map(([domain, one]) => [domain, rootsDer(one)])),
    });
  };

  const jwtFor = async (identity: SpiffeId, audience: readonly string[]): Promise<Result<Jwt, string>> => {
    const key = JSON.stringify([identity, [...audience].sort()]);
    const now = parts.clock.now();
    const kept = jwts.get(key);
    if (kept !== undefined && now < (kept.fetchedMs + kept.notAfterMs) / 2) return ok(kept);
    const got = await parts.jwt(identity, audience);
    if (!got.ok) return got;
    for (const [other, jwt] of jwts) if (jwts.size >= maxJwts || jwt.notAfterMs <= now) jwts.delete(other);
    jwts.set(key, { ...got.value, fetchedMs: now });
    return got;
  };

  const unary =
    <I, O>(method: string, answer: (identity: SpiffeId, request: I) => Promise<Answer<O>>) =>
    (call: ServerUnaryCall<I, O>, done: sendUnaryData<O>): void => {
      void whose(method, call)
        .then((identity) => (identity.ok ? answer(identity.value, call.request) : identity))
        .catch((error: unknown): Answer<O> => fault(status.INTERNAL, String(error).slice(0, 200)))
        .then((reply) => {
          parts.answered(method, outcomeOf(reply));
          if (reply.ok) done(null, reply.value);
          else done(reply.error);
        });
    };

  /** Sends the answer now and whenever it changes, for as long as the caller is who it was. */
  const stream =
    <I, O>(method: string, answer: (identity: SpiffeId) => Answer<O>) =>
    (call: ServerWritableStream<I, O>): void => {
      let sent = "";
      let isBusy = false;
      let again = false;
      let isOver = false;
      const end = (why?: Fault): void => {
        if (isOver) return;
        isOver = true;
        stopListening();
        if (why === undefined) call.end();
        else call.emit("error", why);
      };
      const look = async (): Promise<void> => {
        if (isOver) return;
        if (isBusy) {
          again = true;
          return;
        }
        isBusy = true;
        try {
          const identity = await whose(method, call);
          if (!identity.ok) return end(identity.error);
          if (sent === "") await parts.ready(identity.value, svidWaitMs);
          const reply = answer(identity.value);
          // Later on what is there holds until there is something newer.
          if (!reply.ok && sent === "") return end(reply.error);
          if (!reply.ok || isOver) return;
          const text = JSON.stringify(reply.value);
          if (text === sent) return;
          sent = text;
          call.write(reply.value);
          parts.answered(method, "ok");
        } catch (error) {
          end({ code: status.INTERNAL, details: String(error).slice(0, 200) });
        } finally {
          isBusy = false;
          if (again) {
            again = false;
            void look();
          }
        }
      };
      const stopListening = parts.onChange(() => void look());
      call.on("cancelled", () => end());
      call.on("close", () => end());
      void look();
    };

  return {
    fetchX509Svid: stream("FetchX509SVID", x509Svid),
    fetchX509Bundles: stream("FetchX509Bundles", () => {
      const all = [...domains()].map(([domain, bundle]) => [domain, rootsDer(bundle)] as const);
      return all.length === 0
        ? fault(status.UNAVAILABLE, "no trust bundle is known yet")
        : ok({ crl: [], bundles: Object.fromEntries(all) });
    }),
    fetchJwtsvid: unary<JWTSVIDRequest, JWTSVIDResponse>("FetchJWTSVID", async (identity, { audience, spiffeId }) => {
      if (audience.length === 0 || audience.includes(""))
        return fault(status.INVALID_ARGUMENT, "audience: name whom the token is for");
      if (spiffeId !== "" && spiffeId !== identity)
        return fault(status.PERMISSION_DENIED, "no identity of that name is issued to this process");
      const jwt = await jwtFor(identity, audience);
      return jwt.ok
        ? ok({ svids: [{ spiffeId: identity, svid: jwt.value.token, hint: "" }] })
        : fault(status.UNAVAILABLE, jwt.error);
    }),
    fetchJwtBundles: stream("FetchJWTBundles", () => {
      const all = [...domains()].flatMap(([domain, { jwks }]) => (jwks === "" ? [] : [[domain, Buffer.from(jwks)]]));
      return all.length === 0
        ? fault(status.UNAVAILABLE, "no keys for JWTs are known yet")
        : ok({ bundles: Object.fromEntries(all) });
    }),
    validateJwtsvid: unary<ValidateJWTSVIDRequest, ValidateJWTSVIDResponse>(
      "ValidateJWTSVID",
      async (_identity, { audience, svid }) => {
        if (audience === "" || svid === "") return fault(status.INVALID_ARGUMENT, "audience and svid are needed");
        const all = domains();
        const valid = validateJwtSvid(svid, audience, (d) => all.get(`spiffe://${d}`)?.jwks, parts.clock.now());
        return valid.ok
          ? ok({ spiffeId: valid.value.spiffeId, claims: structOf(valid.value.claims) })
          : fault(status.INVALID_ARGUMENT, valid.error);
      },
    ),
  };
}

const outcomeOf = (reply: Answer<unknown>): "ok" | "denied" | "failed" =>
  reply.ok ? "ok" : reply.error.code === status.PERMISSION_DENIED ? "denied" : "failed";

/** The certificates of a PEM text, DER, one after the other. */
function derOf(pem: string): Buffer {
  const all = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return Buffer.concat(all.map((one) => new X509Certificate(one).raw));
}
const rootsDer = (bundle: TrustBundle): Buffer => derOf(bundle.rootsPem.join("\n"));
