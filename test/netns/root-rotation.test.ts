// The root is rotated as an operator does it, step by step with time between: agents renew at every step, or the last one never comes.
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

interface Certs {
  readonly svids: readonly { readonly state: string; readonly trustGeneration?: number }[];
}
/** A tenth of it is how long renewals after a step are spread over; by themselves they come after half of it. */
const lifeMs = 240_000;

test(
  "[IDN-9] agents renew after the switch too, although the same roots are trusted as before",
  labOptions,
  async () => {
    const pods = manifest(
      namespace("shop"),
      clientPod("shop/one", { node: "node1" }),
      clientPod("shop/two", { node: "node2" }),
    );
    await withLab({ "all.yaml": pods }, { controllerEnv: { FAIRLEAD_SVID_TTL_MS: String(lifeMs) } }, async (lab) => {
      await reached(lab, 1);
      await lab.askController("/v1/ca/rotate", "POST", { phase: "begin" });
      await reached(lab, 2);
      await lab.askController("/v1/ca/rotate", "POST", { phase: "switch" });
      await reached(lab, 3);
    });
  },
);

/** Every SVID is of this generation of the trust bundle. */
const reached = (lab: TestLab, generation: number): Promise<boolean> =>
  waitFor(
    `SVIDs of generation ${generation}`,
    async () => {
      for (const node of ["node1", "node2"]) {
        const { svids } = (await lab.askAgent(node, "/v1/certs")) as unknown as Certs;
        if (svids.length !== 1 || svids.some((svid) => svid.trustGeneration !== generation)) return false;
      }
      return true;
    },
    lifeMs / 4,
  );
