// A namespace on a thread where another one is never idle.
import { every, systemClock } from "../../agent/base/clock.ts";
import { type Tenant, Tenants } from "../../agent/forward/tenants.ts";

/** It has this share of the thread's time, in turns that really end. */
export function crowdedTenant(share: number): { readonly tenant: Tenant; stop(): void } {
  const nowUs = (): number => systemClock.monotonicMs() * 1000;
  const tenants = new Tenants(
    { connections: 1000, requests: 1000, bytes: 2 ** 30, share },
    { afterTurn: (fn) => systemClock.after(1, fn), afterLook: (fn) => setImmediate(fn), nowUs, cpuUs: nowUs },
  );
  const tenant = tenants.of("crowd");
  const other = tenants.of("other");
  const look = (): void => {
    other.startUs();
    tenants.sweep();
  };
  // From the first request on: a fast machine may have answered all of them before the first sweep.
  tenant.startUs();
  look();
  const stop = every(systemClock, 20, look);
  return { tenant, stop };
}
