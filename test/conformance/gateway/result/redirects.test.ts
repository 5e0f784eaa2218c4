import assert from "node:assert/strict";
import { test } from "node:test";
import { wrongRedirects } from "./redirects.ts";

test("[TRF-1] a redirect must lead where its test says, and nowhere else", () => {
  const name = "MeshHTTPRouteRedirectHostAndStatus";
  const asked = "http://echo/host-and-status";
  const good = {
    "http://echo/hostname-redirect": ["http://example.org/hostname-redirect"],
    [asked]: ["http://example.org/host-and-status"],
  };
  assert.deepEqual(wrongRedirects({ name, redirects: good }), []);
  assert.deepEqual(
    wrongRedirects({ name, redirects: { ...good, [asked]: ["http://a/", "http://example.org/host-and-status"] } }),
    [
      `${name}: /host-and-status leads to http://a/, http://example.org/host-and-status, not to http://example.org/host-and-status`,
    ],
  );
  assert.match(wrongRedirects({ name, redirects: {} }).join("\n"), /leads to nowhere/);
  assert.deepEqual(wrongRedirects({ name: "MeshBasic", redirects: {} }), []);
});
