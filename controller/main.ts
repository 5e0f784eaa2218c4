// Process entry: configuration -> parts -> signals -> exit code. 2: wrong configuration; 1: cannot start.
import { systemClock } from "../agent/base/clock.ts";
import { createLogger, messageOf } from "../agent/base/log.ts";
import { createController } from "./app.ts";
import { readConfig } from "./config.ts";
import { StateError } from "./issue/state-files.ts";

const config = readConfig(process.env);
if (!config.ok) {
  for (const line of config.error) process.stderr.write(`fairlead controller: ${line}\n`);
  process.exit(2);
}
const log = createLogger(config.value.logLevel, "controller");

try {
  const controller = await createController(config.value, systemClock, log);
  const stop = (signal: string): void => {
    log.info("stopping", { signal });
    void controller.shutdown(config.value.drainMs).then(() => {
      log.info("stopped", {});
      log.flush();
      process.exit(0);
    });
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  await controller.start();
  if (!controller.signal.aborted) log.info("ready", { ...controller.ports, trustDomain: config.value.trustDomain });
} catch (error) {
  process.stderr.write(`fairlead controller: ${messageOf(error)}\n`);
  if (!(error instanceof StateError)) log.debug("start_failed", { error });
  process.exit(1);
}
