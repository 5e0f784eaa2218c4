import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { badImageName, writeImage } from "./oci.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-oci-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const root = join(scratch, "root");
mkdirSync(join(root, "bin"), { recursive: true });
writeFileSync(join(root, "bin/hello"), "#!/bin/sh\necho hello\n", { mode: 0o755 });
const options = { name: "docker.io/library/hello:1", entrypoint: ["/bin/hello"], env: ["A=b"], user: "1000:1000" };

interface Descriptor {
  readonly digest: string;
  readonly size: number;
}

test("every digest and size of the layout is that of the bytes", async () => {
  const file = join(scratch, "image.tar");
  const digest = await writeImage(root, file, options);
  const to = mkdtempSync(join(scratch, "layout-"));
  execFileSync("tar", ["-xf", file, "-C", to]);
  const blob = (d: Descriptor): Buffer => {
    const bytes = readFileSync(join(to, "blobs/sha256", d.digest.replace("sha256:", "")));
    assert.equal(bytes.length, d.size);
    assert.equal(`sha256:${createHash("sha256").update(bytes).digest("hex")}`, d.digest);
    return bytes;
  };
  assert.deepEqual(JSON.parse(readFileSync(join(to, "oci-layout"), "utf8")), { imageLayoutVersion: "1.0.0" });
  const [listed] = JSON.parse(readFileSync(join(to, "index.json"), "utf8")).manifests;
  assert.equal(listed.digest, digest);
  assert.equal(listed.annotations["io.containerd.image.name"], options.name);
  const manifest = JSON.parse(blob(listed).toString());
  const config = JSON.parse(blob(manifest.config).toString());
  const layer = gunzipSync(blob(manifest.layers[0]));
  assert.deepEqual(config.rootfs.diff_ids, [`sha256:${createHash("sha256").update(layer).digest("hex")}`]);
  assert.deepEqual(config.config.Entrypoint, ["/bin/hello"]);
  assert.equal(config.config.User, "1000:1000");
  assert.deepEqual(config.config.Env.slice(1), ["A=b"]);
  assert.equal(execFileSync("tar", ["-xO", "bin/hello"], { input: layer }).toString(), "#!/bin/sh\necho hello\n");
});

test("the same folder gives the same image", async () => {
  const files = [join(scratch, "one.tar"), join(scratch, "two.tar")];
  for (const file of files) await writeImage(root, file, options);
  const [one, two] = files.map((f) => readFileSync(f));
  assert.deepEqual(one, two);
});

test("a name without host or tag is refused, and nothing is left over", async () => {
  for (const name of ["hello", "hello:1", "docker.io/library/hello", "docker.io/Library/hello:1", "docker.io/a:1 2"])
    assert.match(badImageName(name) ?? "", /write it in full/);
  for (const name of [options.name, "localhost:5000/a:1", "fairlead.dev/cluster/coredns:v1.15.0"])
    assert.equal(badImageName(name), undefined);
  const folder = mkdtempSync(join(scratch, "none-"));
  await assert.rejects(writeImage(root, join(folder, "a.tar"), { name: "hello" }), /write it in full/);
  await assert.rejects(writeImage(join(scratch, "missing"), join(folder, "a.tar"), options), /ENOENT/);
  assert.deepEqual(readdirSync(folder), []);
  assert.ok(!existsSync(join(folder, "a.tar")));
});
