// Load that runs beside a proof, and idle connections that prove themselves: one way to start, ask and end them.
import type { TestLab } from "../kit/lab.ts";
import { check } from "./proof.ts";

export interface Load {
  /** Ends it. @throws Error when a connection failed or was cut at its server, and `mayFail` is not set */
  stop(what: string, mayFail?: boolean): Promise<Record<string, unknown>>;
}
export interface LoadOptions {
  readonly host: string;
  readonly rate: number;
  /** Who ends first, as the traffic program names it; default: the client asks, then ends. */
  readonly orders?: string;
  readonly client?: string;
}

/** New connections at a fixed rate, whether earlier ones have finished or not. */
export async function startLoad(lab: TestLab, options: LoadOptions): Promise<Load> {
  const { host, rate, orders = "request", client = "shop/client" } = options;
  const program = await lab.startTraffic(client, ["load", "--host", host, "--rate", String(rate), "--orders", orders]);
  await program.next();
  return {
    async stop(what, mayFail = false) {
      const report = await program.ask("stop", 120_000);
      check(mayFail || report.failed === 0, `${what}: ${JSON.stringify(report)}`);
      check(
        mayFail || (report.server as { broken?: number } | undefined)?.broken === 0,
        `${what}: ${JSON.stringify(report)}`,
      );
      return report;
    },
  };
}

export interface IdleConnections {
  readonly count: number;
  /** Sends and gets hashed bytes on each. @throws Error when one is not whole */
  prove(what: string): Promise<Record<string, unknown>>;
  /** How many of them are whole, whatever the number. */
  look(): Promise<Record<string, unknown>>;
  end(): Promise<void>;
}

/** Opens connections that stay. @throws Error when one is refused */
export async function holdIdle(
  lab: TestLab,
  options: { readonly host: string; readonly count: number; readonly seed?: number; readonly client?: string },
): Promise<IdleConnections> {
  const { host, count, seed = 1, client = "shop/client" } = options;
  const args = ["idle", "--host", host, "--count", String(count), "--seed", String(seed)];
  const program = await lab.startTraffic(client, args);
  const opened = await program.next(180_000);
  check(opened.open === count, `${count} idle connections to ${host}: ${JSON.stringify(opened)}`);
  const look = (): Promise<Record<string, unknown>> => program.ask("check", 120_000);
  return {
    count,
    look,
    async prove(what) {
      const state = await look();
      check(state.ok === count, `idle connections ${what}: ${JSON.stringify(state)}`);
      return state;
    },
    end: async () => void (await program.end("quit")),
  };
}
