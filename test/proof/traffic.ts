// Proof: 100,000 short connections and 2,000 long ones of random sizes and half-close orders, hash-checked both ways, on all four paths; nothing lost, nothing left.

import { withLab } from "../kit/lab.ts";
import { beyond, holdings } from "./leaks.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

export const traffic: Proof = {
  name: "traffic",
  about: "short and long connections, hash-checked, four paths",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    const short = Math.round(25_000 * scale);
    const long = Math.round(500 * scale);
    await withLab(shopManifests, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      const before = await holdings(lab);
      for (const path of await paths(lab)) {
        say(`${path.name}: ${short} short connections`);
        const a = await lab.traffic(
          "shop/client",
          ["short", "--host", path.host, "--count", String(short), "--concurrency", "64", "--max", "4096"],
          900_000,
        );
        say(`${path.name}: ${long} long connections`);
        const b = await lab.traffic(
          "shop/client",
          ["long", "--host", path.host, "--count", String(long), "--max", "3000000", "--timeout", "300000"],
          900_000,
        );
        facts[path.name] = { short: a, long: b };
        for (const r of [a, b])
          check((r.server as { broken?: number }).broken === 0, `${path.name}: ${JSON.stringify(r)}`);
        check(a.failed === 0 && a.ok === short, `${path.name}: short: ${JSON.stringify(a)}`);
        check(b.failed === 0 && b.ok === long, `${path.name}: long: ${JSON.stringify(b)}`);
      }
      const left = await beyond(lab, before, 64);
      facts.left = left;
      check(Object.keys(left).length === 0, `held beyond the start: ${JSON.stringify(left)}`);
    });
    return facts;
  },
};
