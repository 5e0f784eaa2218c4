// Where the redirects of the suite's mesh tests must lead. In a mesh the suite compares their status alone (utils/echo), though its tests name
// the place too (RedirectRequest); the place is compared here. Pure.
import type { TestRun } from "./suite-output.ts";

/** Test -> path asked of http://echo -> Location. */
const places: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  MeshHTTPRoute303Redirect: { "/redirect": "http://echo/redirect" },
  MeshHTTPRoute307Redirect: { "/temporary": "http://echo/temporary" },
  MeshHTTPRoute308Redirect: { "/permanent": "http://echo/permanent" },
  MeshHTTPRouteRedirectHostAndStatus: {
    "/hostname-redirect": "http://example.org/hostname-redirect",
    "/host-and-status": "http://example.org/host-and-status",
  },
  MeshHTTPRouteRedirectPath: {
    "/original-prefix/lemon": "http://echo/replacement-prefix/lemon",
    "/full/path/original": "http://echo/full-path-replacement",
    "/path-and-host": "http://example.org/replacement-prefix",
    "/path-and-status": "http://echo/replacement-prefix",
    "/full-path-and-host": "http://example.org/replacement-full",
    "/full-path-and-status": "http://echo/replacement-full",
  },
  MeshHTTPRouteRedirectPort: {
    "/port": "http://echo:8083/port",
    "/port-and-host": "http://example.org:8083/port-and-host",
    "/port-and-status": "http://echo:8083/port-and-status",
    "/port-and-host-and-status": "http://example.org:8083/port-and-host-and-status",
  },
  MeshHTTPRouteSchemeRedirect: {
    "/scheme": "https://echo/scheme",
    "/scheme-and-host": "https://example.org/scheme-and-host",
    "/scheme-and-status": "https://echo/scheme-and-status",
    "/scheme-and-host-and-status": "https://example.org/scheme-and-host-and-status",
  },
};

/** Redirects of a test that led elsewhere, or that were not seen; one line each. */
export function wrongRedirects({ name, redirects }: Pick<TestRun, "name" | "redirects">): readonly string[] {
  return Object.entries(places[name] ?? {}).flatMap(([path, wanted]) => {
    const seen = redirects[`http://echo${path}`] ?? [];
    if (seen.length === 1 && seen[0] === wanted) return [];
    return [`${name}: ${path} leads to ${seen.join(", ") || "nowhere"}, not to ${wanted}`];
  });
}
