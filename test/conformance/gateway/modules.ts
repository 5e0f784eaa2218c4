// What the Gateway API's conformance run is built from: its suite and the echo workload, pinned in go/go.mod.
import { join } from "node:path";
import type { Module } from "../../cluster/compile/modules.ts";
import { PROJECT_DIR } from "../../lab/paths.ts";

const pins = {
  folder: join(PROJECT_DIR, "test/conformance/gateway/go"),
  of: "sigs.k8s.io/gateway-api/conformance",
  variables: () => [],
} as const;

export const echoModule: Module = { ...pins, name: "gateway-echo", programs: { echo: "./echo" } };
export const suiteModule: Module = {
  ...pins,
  name: "gateway-conformance",
  programs: {},
  tests: { "conformance.test": "./suite" },
};
