// Replays the inputs that fuzzing kept: each must end in a Result, in bounded time, whole and cut short.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { patienceMs } from "../kit/wait.ts";
import { targets } from "./targets.ts";

const ids: Readonly<Record<string, string>> = {
  "csr-pem": "IDN-3",
  "csr-der": "IDN-3",
  frames: "SEC-8",
  records: "SEC-8",
  resources: "DIS-9",
  discovery: "DIS-3",
  calls: "IDN-3",
  "request-path": "SEC-8",
  "request-host": "SEC-8",
  "http1-request": "TRF-7",
  "http1-response": "TRF-7",
  "first-bytes": "INT-7",
  "http2-frames": "SEC-8",
  hpack: "SEC-8",
  http2: "SEC-8",
  "trace-headers": "OBS-4",
  "kube-watch": "DIS-9",
  "service-account-token": "IDN-3",
};

for (const target of targets) {
  test(`[${ids[target.name]}] fuzz corpus ${target.name}: a Result for every kept input, never a throw`, async (t) => {
    t.after(() => target.close?.());
    const folder = join(import.meta.dirname, "corpus", target.name);
    const files = readdirSync(folder).sort();
    assert.ok(files.length > 0, `${folder} is empty`);
    for (const file of files) {
      const input = readFileSync(join(folder, file));
      const step = Math.max(1, Math.floor(input.length / 8));
      for (let end = input.length; end > 0; end -= step) {
        const began = performance.now();
        await assert.doesNotReject(async () => await target.run(input.subarray(0, end)), `${file}, first ${end} bytes`);
        // What grows out of bounds takes for ever; the first one may have to start a controller.
        assert.ok(performance.now() - began < patienceMs, `${file}, first ${end} bytes: too slow`);
      }
    }
  });
}
