// Proof: certificates that live ten seconds are renewed for minutes under load, and no connection, new or open, notices.
import { setTimeout as sleep } from "node:timers/promises";
import { withLab } from "../kit/lab.ts";
import { check, type Proof } from "./proof.ts";
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
      const idle = await lab.startTraffic("shop/client", [
        "idle",
        "--host",
        farPath.host,
        "--count",
        "100",
        "--seed",
        "3",
      ]);
      await idle.next();
      const load = await lab.startTraffic("shop/client", [
        "load",
        "--host",
        farPath.host,
        "--rate",
        "300",
        "--orders",
        "request",
      ]);
      await load.next();
      const seconds = Math.round(180 * scale);
      for (let passed = 0; passed < seconds; passed += 20) {
        await sleep(Math.min(20, seconds - passed) * 1000);
        const proved = await idle.ask("check");
        check(proved.ok === 100, `idle connections after ${passed + 20} s: ${JSON.stringify(proved)}`);
        say(`${passed + 20} s: idle connections whole`);
      }
      const report = await load.ask("stop", 60_000);
      check(report.failed === 0, `load during renewals: ${JSON.stringify(report)}`);
      facts.load = report;
      facts.certificates = await lab.askAgent("node1", "/v1/certs");
      await idle.end("quit");
    });
    return facts;
  },
};
