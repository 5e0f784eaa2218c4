// Static table of HPACK (RFC 7541 appendix A), as the decoder and the encoder want it.
import { kindOf } from "./fields.ts";

const rows = `:authority|
:method|GET
:method|POST
:path|/
:path|/index.html
:scheme|http
:scheme|https
:status|200
:status|204
:status|206
:status|304
:status|400
:status|404
:status|500
accept-charset|
accept-encoding|gzip, deflate
accept-language|
accept-ranges|
accept|
access-control-allow-origin|
age|
allow|
authorization|
cache-control|
content-disposition|
content-encoding|
content-language|
content-length|
content-location|
content-range|
content-type|
cookie|
date|
etag|
expect|
expires|
from|
host|
if-match|
if-modified-since|
if-none-match|
if-range|
if-unmodified-since|
last-modified|
link|
location|
max-forwards|
proxy-authenticate|
proxy-authorization|
range|
referer|
refresh|
retry-after|
server|
set-cookie|
strict-transport-security|
transfer-encoding|
user-agent|
vary|
via|
www-authenticate|`
  .split("\n")
  .map((row) => row.split("|"));

/** The first index of the dynamic table. */
export const staticEnd = 62;
/** From index 1; index 0 is empty. */
export const staticNames: readonly string[] = ["", ...rows.map((r) => r[0] ?? "")];
export const staticValues: readonly string[] = ["", ...rows.map((r) => r[1] ?? "")];
export const staticKinds: readonly number[] = staticNames.map((name) => (name === "" ? 0 : kindOf(name)));
