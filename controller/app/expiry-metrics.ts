// How long certificates still last, as metrics: the controller's own, and the first to end of those it gave out.
import { partsOf } from "../../agent/api/names.ts";
import type { Metrics } from "../../agent/base/metrics.ts";
import type { Authority } from "../issue/authority.ts";
import type { Ledger } from "./ledger.ts";
import type { OwnCertificate } from "./own-certificate.ts";

export function expiryMetrics(
  metrics: Metrics,
  authority: Authority,
  own: OwnCertificate,
  ledger: Ledger,
  now: () => number,
): void {
  const secondsTo = (endMs: number): number => (endMs - now()) / 1000;
  metrics.gaugeOf(
    {
      name: "fairlead_ca_expiry_seconds",
      help: "Time until a certificate of the controller ends",
      labels: ["certificate"],
    },
    (gauge) => {
      gauge.clear();
      gauge.set({ certificate: "intermediate" }, secondsTo(authority.intermediateNotAfterMs));
      gauge.set({ certificate: "server" }, secondsTo(own.current.notAfterMs));
      for (const root of authority.describe())
        gauge.set({ certificate: `root-${root.number}` }, secondsTo(root.notAfterMs));
    },
  );
  metrics.gaugeOf(
    {
      name: "fairlead_certificate_soonest_expiry_seconds",
      help: "Time until the first certificate in force that was given out here ends; absent without any",
      labels: ["kind"],
    },
    (gauge) => {
      gauge.clear();
      // From the last to the first, so that the first stays.
      for (const { identity, notAfterMs } of ledger.living().toReversed()) {
        gauge.set({ kind: partsOf(identity).kind }, secondsTo(notAfterMs));
      }
    },
  );
}
