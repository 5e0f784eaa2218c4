// The image of the echo workload, under the name that the suite's manifests give it. With it comes a certificate for its TLS port.
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeImage } from "../../../scripts/image/oci.ts";
import type { Built } from "../../cluster/compile/build.ts";
import { Authority } from "../../cluster/kubernetes/pki.ts";

/** As mesh/manifests.yaml of the suite says. */
export const ECHO_IMAGE = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/** File of the image, made once for each build of the program. */
export async function echoImage(cache: string, echo: Built, nowMs: number): Promise<string> {
  const folder = join(cache, "images");
  const file = join(folder, `${echo.folder.slice(echo.folder.lastIndexOf("/") + 1)}.tar`);
  if (existsSync(file)) return file;
  mkdirSync(folder, { recursive: true });
  const root = mkdtempSync(join(tmpdir(), "fairlead-echo-"));
  try {
    mkdirSync(join(root, "bin"));
    copyFileSync(join(echo.folder, "echo"), join(root, "bin/server"));
    symlinkSync("server", join(root, "bin/client"));
    const own = await (await Authority.make("echo", nowMs)).issue({ commonName: "echo", names: ["echo"] });
    writeFileSync(join(root, "cert.crt"), own.certPem);
    writeFileSync(join(root, "cert.key"), own.keyPem);
    await writeImage(root, file, { name: ECHO_IMAGE, entrypoint: ["/bin/server"] });
    return file;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
