// Structured log lines: level, event (stable snake_case name), fields. pino writes them; nothing else imports pino.
import { type DestinationStream, destination, pino, stdTimeFunctions } from "pino";

export const logLevels = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** The same log with these fields on every line. */
  with(fields: LogFields): Logger;
  setLevel(level: LogLevel): void;
  /** Writes out what is buffered; before the process ends. */
  flush(): void;
}

/** Logs JSON lines to `to` (default: standard error). Errors among the fields appear with message and stack. */
export function createLogger(level: LogLevel, part: string, to?: DestinationStream): Logger {
  const out = to ?? destination({ fd: 2, sync: true });
  const root = pino(
    {
      level,
      base: { part },
      messageKey: "event",
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: describeError },
    },
    out,
  );
  return wrap(root);
}

type Pino = Pick<ReturnType<typeof pino>, "debug" | "info" | "warn" | "error" | "flush"> & {
  level: string;
  child(bindings: Record<string, unknown>): Pino;
};
function wrap(target: Pino): Logger {
  return {
    debug: (event, fields) => target.debug(fields ?? {}, event),
    info: (event, fields) => target.info(fields ?? {}, event),
    warn: (event, fields) => target.warn(fields ?? {}, event),
    error: (event, fields) => target.error(fields ?? {}, event),
    with: (fields) => wrap(target.child({ ...fields })),
    setLevel(level) {
      target.level = level;
    },
    flush: () => target.flush(),
  };
}

function describeError(error: unknown): unknown {
  return error instanceof Error ? { message: error.message, stack: error.stack } : error;
}

export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  with: () => silentLogger,
  setLevel: () => {},
  flush: () => {},
};

/** The message of whatever was thrown, for fields and status lines. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
