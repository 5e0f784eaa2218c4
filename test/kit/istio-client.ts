// Istio's certificate service as a ztunnel asks it.
import { IstioCertificateServiceClient } from "../../agent/api/istio-ca.gen.ts";
import type { TestController } from "./controller.ts";
import { channelWithToken, makeCsr, named } from "./node-agent.ts";

export interface IstioAsker {
  readonly controller: TestController;
  readonly roots: string;
  readonly token: string;
}

/** The chain for an identity, from a request of the same or another one ("": of none). Rejects with what the controller says. */
export async function istioChain(
  { controller, roots, token }: IstioAsker,
  identity: string,
  asked: string = identity,
): Promise<readonly string[]> {
  const channel = channelWithToken(roots, token);
  const client = new IstioCertificateServiceClient(`127.0.0.1:${controller.ports.grpc}`, channel, named);
  const { csrPem } = await makeCsr(identity);
  const fields = asked === "" ? {} : { ImpersonatedIdentity: { stringValue: asked } };
  try {
    return await new Promise((resolve, reject) =>
      client.createCertificate({ csr: csrPem, validityDuration: 3600, metadata: { fields } }, (error, response) =>
        error === null ? resolve(response.certChain) : reject(error),
      ),
    );
  } finally {
    client.close();
  }
}
