// The roots that are trusted for one trust domain. The generation grows with every change of the set.
import { checkFields, type Decoded } from "./fields.ts";
import type * as wire from "./mesh.gen.ts";
import { defaultTrustDomain, parseTrustDomain, type TrustDomain } from "./names.ts";

export interface TrustBundle {
  readonly trustDomain: TrustDomain;
  /** PEM certificates, one each. */
  readonly rootsPem: readonly string[];
  readonly generation: number;
  /** JSON Web Key Set of the keys that JWT-SVIDs are signed with; "" for none. */
  readonly jwks: string;
}

const onePem = /^-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\s*$/;

export function trustBundleFromWire(message: wire.TrustBundle): Decoded<TrustBundle> {
  const fields = checkFields();
  if (message.rootsPem.length === 0) fields.problem("roots_pem", "is empty: nothing would be trusted");
  message.rootsPem.forEach((pem, i) => {
    if (!onePem.test(pem)) fields.problem(`roots_pem[${i}]`, "is not one PEM certificate");
  });
  return fields.finish<TrustBundle>({
    trustDomain: fields.parsed("trust_domain", parseTrustDomain(message.trustDomain), defaultTrustDomain),
    rootsPem: message.rootsPem,
    generation: message.generation,
    jwks: message.jwks,
  });
}

export function trustBundleToWire(bundle: TrustBundle): wire.TrustBundle {
  return {
    trustDomain: bundle.trustDomain,
    rootsPem: [...bundle.rootsPem],
    generation: bundle.generation,
    jwks: bundle.jwks,
  };
}
