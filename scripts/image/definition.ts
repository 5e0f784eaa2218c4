// What the two images are: programs, packages, user, environment. The Dockerfiles say the same, and a test compares them.
import { agentNodeEnvironment, agentNodeFlags } from "../../agent/node-flags.ts";
import { controllerNodeFlags } from "../../controller/node-flags.ts";

export const imageNames = ["agent", "controller"] as const;
export type ImageName = (typeof imageNames)[number];

/** Where things lie inside. */
export const NODE = "/usr/local/bin/node";
export const HOME = "/opt/fairlead";
/** Above those that people and programs of a distribution have: nothing on a node runs as it by chance. */
export const UNPRIVILEGED = 65_532;
/** On the node's disk: who may write there gives the agent its code, so it is root's alone. */
export const CODE_CACHE = "/var/lib/fairlead/code";

export interface ImageDefinition {
  readonly name: ImageName;
  readonly title: string;
  /** Files of the project whose imports, and theirs, make the program. */
  readonly entries: readonly string[];
  /** Files and folders taken as they are. */
  readonly files: readonly string[];
  /** Programs and libraries that were built before, path in the project -> path below HOME; taken without symbols for debuggers. */
  readonly built: Readonly<Record<string, string>>;
  /** Beside what every image has. */
  readonly debian: readonly string[];
  readonly user: string;
  readonly env: Readonly<Record<string, string>>;
  readonly entrypoint: readonly string[];
}

/** What the pinned Node links to. */
export const nodePackages = ["libc6", "libgcc-s1", "libstdc++6", "libatomic1"] as const;
/** nft and all that it links to: how pods are intercepted where eBPF cannot be used. */
const nftPackages = [
  "nftables",
  "libnftables1",
  "libnftnl11",
  "libmnl0",
  "libgmp10",
  "libjansson4",
  "libxtables12",
  "libedit2",
  "libbsd0",
  "libmd0",
  "libtinfo6",
] as const;

export const images: Readonly<Record<ImageName, ImageDefinition>> = {
  agent: {
    name: "agent",
    title: "Fairlead node agent",
    entries: ["agent/main.ts", "agent/app/remove-cni.ts", "cli/inside.ts", "cli/run.ts"],
    files: ["bpf/prebuilt"],
    built: {
      "native/target/release/libfairlead.so": "native/target/release/libfairlead.so",
      "native/target/plugin/fairlead-cni": "native/target/plugin/fairlead-cni",
      "native/target/plugin/fairlead-probe": "bin/fairlead-probe",
    },
    debian: ["libelf1", "zlib1g", ...nftPackages],
    user: "0:0",
    env: { ...agentNodeEnvironment(CODE_CACHE), FAIRLEAD_ADMIN_SOCKET: "/run/fairlead/agent.sock" },
    entrypoint: [NODE, ...agentNodeFlags, `${HOME}/agent/main.ts`],
  },
  controller: {
    name: "controller",
    title: "Fairlead controller",
    entries: ["controller/main.ts", "cli/inside.ts", "cli/run.ts", "cli/remove-mesh.ts"],
    files: [],
    built: {},
    debian: [],
    user: `${UNPRIVILEGED}:${UNPRIVILEGED}`,
    env: { FAIRLEAD_ADMIN_SOCKET: "/run/fairlead/controller.sock", FAIRLEAD_STATE_DIR: "/var/lib/fairlead" },
    entrypoint: [NODE, ...controllerNodeFlags, `${HOME}/controller/main.ts`],
  },
};
