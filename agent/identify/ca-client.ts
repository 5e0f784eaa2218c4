// Certificates from the controller (a CSR out, a chain back), and JWTs that it signs.
import { Metadata } from "@grpc/grpc-js";
import type { CertificateServiceClient, IssueResponse } from "../api/mesh.gen.ts";
import type { SpiffeId } from "../api/names.ts";
import { err, ok, type Result } from "../base/result.ts";

export interface Issued {
  /** Leaf, then intermediates. */
  readonly chainPem: string;
  readonly notAfterMs: number;
  readonly trustGeneration: number;
}
export interface IssuedJwt {
  readonly token: string;
  readonly notAfterMs: number;
}
export interface CertificateAuthority {
  issue(identity: SpiffeId, csrPem: string): Promise<Result<Issued, string>>;
  issueJwt(identity: SpiffeId, audience: readonly string[]): Promise<Result<IssuedJwt, string>>;
}

/** `client` gives the current connection, or why there is none (not joined yet). Deadlines are in ms. */
export function createCaClient(
  client: () => Result<CertificateServiceClient, string>,
  deadlineMs: number,
  now: () => number,
): CertificateAuthority {
  return {
    async issue(identity, csrPem) {
      const service = client();
      if (!service.ok) return service;
      const answer = await new Promise<Result<IssueResponse, string>>((resolve) => {
        service.value.issue({ identity, csrPem }, new Metadata(), { deadline: now() + deadlineMs }, (error, response) =>
          resolve(error === null ? ok(response) : err(`${error.details || error.message}`)),
        );
      });
      if (!answer.ok) return answer;
      const { chainPem, notAfterMs, trustGeneration } = answer.value;
      if (!chainPem.includes("-----BEGIN CERTIFICATE-----"))
        return err("the controller answered without a certificate");
      if (notAfterMs <= now()) return err(`the controller's certificate ended at ${notAfterMs}: are the clocks apart?`);
      return ok({ chainPem, notAfterMs, trustGeneration });
    },
    async issueJwt(identity, audience) {
      const service = client();
      if (!service.ok) return service;
      const request = { identity, audience: [...audience] };
      return new Promise((resolve) => {
        service.value.issueJwt(request, new Metadata(), { deadline: now() + deadlineMs }, (error, response) =>
          resolve(error === null ? ok(response) : err(`${error.details || error.message}`)),
        );
      });
    },
  };
}
