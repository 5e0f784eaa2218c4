// Takes the CNI plugin off the node (docs/cni.md): the same environment as the agent's. 0 done, 1 something is still there, 2 bad configuration.
import { join } from "node:path";
import { uninstall } from "../cni/installer.ts";
import { readConfig } from "../config.ts";

const config = readConfig(process.env, join(import.meta.dirname, "../.."));
if (!config.ok) {
  for (const problem of config.error) process.stderr.write(`fairlead remove-cni: ${problem}\n`);
  process.exit(2);
}
const done = await uninstall(config.value.cniConfDir, config.value.cniBinDir);
if (done.ok) for (const path of done.value) process.stdout.write(`removed ${path}\n`);
else process.stderr.write(`fairlead remove-cni: ${done.error}\n`);
process.exitCode = done.ok ? 0 : 1;
