// Proof: certificates that live ten seconds are renewed for minutes under load, and no connection, new or open, notices.
import { setTimeout as sleep } from "node:timers/promises";
import { withLab } from "../kit/lab.ts";
import { holdIdle, startLoad } from "./load.ts";
import type { Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

export const renewals: Proof = {
  name: "renewals",
  about: "lifetimes of 10 s, three minutes of load with 100 idle connections",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    await withLab(shopManifests, { nodes: 2, controllerEnv: { FAIRLEAD_SVID_TTL_MS: "10000" } }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      const farPath = (await paths(lab))[2];
      if (farPath === undefined) throw new Error("no path");
      const idle = await holdIdle(lab, { host: farPath.host, count: 100, seed: 3 });
      const load = await startLoad(lab, { host: farPath.host, rate: 300 });
      const seconds = Math.round(180 * scale);
      for (let passed = 0; passed < seconds; passed += 20) {
        await sleep(Math.min(20, seconds - passed) * 1000);
        await idle.prove(`after ${passed + 20} s`);
        say(`${passed + 20} s: idle connections whole`);
      }
      facts.load = await load.stop("load during renewals");
      facts.certificates = await lab.askAgent("node1", "/v1/certs");
      await idle.end();
    });
    return facts;
  },
};
