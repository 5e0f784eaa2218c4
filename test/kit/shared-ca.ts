// One root for all controllers of a test process: making an RSA 4096 key takes seconds.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeRoot } from "../../controller/issue/pki.ts";

let shared: Promise<Readonly<Record<string, string>>> | undefined;

/** Environment of a controller that is to use the shared root; its files go when the process ends. */
export function sharedCa(): Promise<Readonly<Record<string, string>>> {
  shared ??= (async () => {
    const { certPem, keyPem } = await makeRoot("cluster.local", Date.now());
    const dir = mkdtempSync(join(tmpdir(), "fairlead-root-"));
    process.once("exit", () => rmSync(dir, { recursive: true, force: true }));
    const files = {
      FAIRLEAD_CA_ROOT_CERT_FILE: join(dir, "root.crt"),
      FAIRLEAD_CA_ROOT_KEY_FILE: join(dir, "root.key"),
    };
    writeFileSync(files.FAIRLEAD_CA_ROOT_CERT_FILE, certPem);
    writeFileSync(files.FAIRLEAD_CA_ROOT_KEY_FILE, keyPem, { mode: 0o600 });
    return files;
  })();
  return shared;
}

/** For `env`: the controller makes its own root. */
export const ownCa: Readonly<Record<string, string>> = {
  FAIRLEAD_CA_ROOT_CERT_FILE: "",
  FAIRLEAD_CA_ROOT_KEY_FILE: "",
};
