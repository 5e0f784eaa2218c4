// Process entry of the node agent: config -> agent -> signals -> exit code. 0 drained, 1 lost native, 2 bad configuration, 3 could not start.
import { flushCompileCache } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { startAgent } from "./app/agent.ts";
import { onHost } from "./app/host.ts";
import { nativeSettings } from "./app/native-settings.ts";
import { systemClock } from "./base/clock.ts";
import { createLogger } from "./base/log.ts";
import { systemRandom } from "./base/random.ts";
import { readConfig } from "./config.ts";
import { startNative } from "./native.ts";
import { agentVersion } from "./version.ts";

const projectDir = dirname(dirname(fileURLToPath(import.meta.url)));
const config = readConfig(process.env, projectDir);
if (!config.ok) {
  for (const problem of config.error) process.stderr.write(`fairlead agent: ${problem}\n`);
  process.exit(2);
}
const { logLevel, node } = config.value;
const log = createLogger(logLevel, "agent").with({ node, pid: process.pid });
const end = (code: number): void => {
  log.info("ended", { code });
  log.flush();
  process.exit(code);
};
process.on("uncaughtException", (error) => {
  log.error("uncaught", { error });
  end(1);
});
process.on("unhandledRejection", (error) => {
  log.error("uncaught", { error });
  end(1);
});

const host = await onHost(config.value, log);
if (!host.ok) {
  process.stderr.write(`fairlead agent: ${host.error}\n`);
  process.exit(2);
}
const settings = host.value;
const started = await startAgent({
  config: settings,
  clock: systemClock,
  random: systemRandom,
  log,
  version: agentVersion,
  startNative: (listener) => startNative(settings.libraryPath, nativeSettings(settings), listener, systemClock),
  ended: end,
});
if (!started.ok) {
  log.error("not_started", { reason: started.error });
  end(3);
} else {
  flushCompileCache();
  // Without a successor this is a drain all the same: what is open ends in its own time. A second signal does not wait.
  let asked = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => {
      if (asked) end(0);
      asked = true;
      started.value.drain(signal);
    });
}
