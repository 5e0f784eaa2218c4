// The import rule of the architecture as a table: room -> rooms it may import (its own folder and Node core are
// always allowed). Checked by dependency-cruiser; a folder without a row fails.
const pureRooms = ["agent/decide", "agent/enrich", "agent/state", "controller/index", "controller/translate"];
// What decides about requests on a data thread.
const forRequests = [
  "agent/enrich",
  "agent/decide",
  "agent/forward",
  "agent/report",
  "agent/replica.ts",
  "agent/threads.ts",
  "agent/state",
  "agent/flow.ts",
  "agent/http.ts",
  "agent/api",
  "agent/base",
];
const table = {
  "agent/base": [],
  "agent/api": ["agent/base"],
  // Requests to an API server and mirrors of its collections, for both programs; of the mesh it knows nothing.
  "agent/kubernetes": ["agent/base"],
  "agent/state": ["agent/api", "agent/base"],
  "agent/intercept": [
    "agent/native.ts",
    "agent/native-calls.ts",
    "agent/kubernetes",
    "agent/state",
    "agent/flow.ts",
    "agent/api",
    "agent/base",
  ],
  "agent/cni": ["agent/api", "agent/base"],
  "agent/identify": ["agent/state", "agent/flow.ts", "agent/api", "agent/base"],
  "agent/decide": ["agent/state", "agent/flow.ts", "agent/http.ts", "agent/api", "agent/base"],
  "agent/forward": [
    "agent/native.ts",
    "agent/native-calls.ts",
    "agent/flow.ts",
    "agent/http.ts",
    "agent/api",
    "agent/base",
  ],
  "agent/enrich": ["agent/state", "agent/flow.ts", "agent/http.ts", "agent/api", "agent/base"],
  "agent/report": ["agent/enrich/tally.ts", "agent/flow.ts", "agent/http.ts", "agent/api", "agent/base"],
  "agent/discover": ["agent/state", "agent/flow.ts", "agent/api", "agent/base"],
  "agent/native.ts": ["agent/native-calls.ts", "agent/base"],
  "agent/native-calls.ts": [],
  "agent/flow.ts": ["agent/api", "agent/base"],
  "agent/http.ts": [],
  "agent/threads.ts": [
    "agent/forward/tenants.ts",
    "agent/upstream/shared.ts",
    "agent/native-calls.ts",
    "agent/report/decisions.ts",
    "agent/report/endpoint-changes.ts",
    "agent/upstream/guard.ts",
    "agent/decide/trace/request-trace.ts",
    "agent/report/note-counts.ts",
    "agent/report/observed.ts",
    "agent/report/request-series.ts",
    "agent/flow.ts",
    "agent/api",
    "agent/base",
  ],
  "agent/replica.ts": ["agent/threads.ts", "agent/state", "agent/flow.ts", "agent/api", "agent/base"],
  "agent/handed.ts": ["agent/forward", "agent/replica.ts", "agent/threads.ts", "agent/api"],
  "agent/config.ts": [
    "agent/decide/trace/request-trace.ts",
    "agent/report/request-filter.ts",
    "agent/api",
    "agent/base",
  ],
  "agent/version.ts": [],
  "agent/node-flags.ts": [],
  "agent/connection-facts.ts": ["agent/decide", "agent/state", "agent/flow.ts", "agent/api", "agent/base"],
  "agent/overtaken.ts": ["agent/replica.ts", "agent/threads.ts", "agent/api", "agent/base"],
  "agent/carried.ts": [
    "agent/decide",
    "agent/forward",
    "agent/replica.ts",
    "agent/threads.ts",
    "agent/native-calls.ts",
    "agent/flow.ts",
    "agent/api",
    "agent/base/clock.ts",
  ],
  "agent/request-watch.ts": [
    "agent/decide",
    "agent/report",
    "agent/threads.ts",
    "agent/flow.ts",
    "agent/http.ts",
    "agent/api",
    "agent/base",
  ],
  "agent/request.ts": ["agent/upstream", "agent/request-watch.ts", ...forRequests],
  "agent/upstream": forRequests,
  "agent/connection.ts": [
    "agent/connection-facts.ts",
    "agent/intercept",
    "agent/identify",
    "agent/decide",
    "agent/forward",
    "agent/report",
    "agent/state",
    "agent/flow.ts",
    "agent/api",
    "agent/base",
  ],
  "controller/index": ["controller/sources/types.ts", "agent/api", "agent/base"],
  "controller/kubernetes": ["agent/kubernetes", "agent/base"],
  "controller/write": ["agent/kubernetes", "agent/base"],
  "controller/operator": [
    "controller/write/desired.ts",
    "controller/index",
    "controller/sources/types.ts",
    "controller/sources/http-types.ts",
    "controller/translate/conditions.ts",
    "agent/kubernetes",
    "agent/api",
    "agent/base",
  ],
  "controller/lease": ["agent/kubernetes", "agent/base"],
  "controller/sources": ["agent/kubernetes", "agent/api", "agent/base"],
  "controller/translate": [
    "controller/index",
    "controller/sources/types.ts",
    "controller/sources/http-types.ts",
    "agent/api",
    "agent/base",
  ],
  "controller/serve": ["agent/api", "agent/base"],
  "controller/issue": ["agent/kubernetes", "agent/api", "agent/base"],
  "controller/status": ["controller/write/desired.ts", "controller/sources/types.ts", "agent/api", "agent/base"],
  "controller/report": ["agent/api", "agent/base"],
  "controller/config.ts": ["agent/api", "agent/base"],
  // The command line talks to agents and the controller over their sockets; it shares their words, not their parts. Of a cluster it
  // asks the API server as they do.
  cli: ["agent/kubernetes", "agent/api", "agent/base", "controller/kubernetes/access.ts", "test/lab"],
  "test/lab": ["agent/api", "agent/base", "agent/node-flags.ts", "controller/sources"],
  // A Kubernetes of other people's programs: of the mesh it knows nothing. From the lab it has what runs programs on a machine.
  "test/cluster": [
    "agent/base",
    "controller/issue/x509.ts",
    "test/lab/cgroup.ts",
    "test/lab/command.ts",
    "test/lab/files.ts",
    "test/lab/network.ts",
    "test/lab/paths.ts",
  ],
};
// Compositions: the only files that may build parts out of any room of their side.
const open = {
  "agent/(main|app|worker)[.]ts": ["agent"],
  "agent/app": ["agent"],
  "controller/(main|app)[.]ts": ["controller", "agent/kubernetes", "agent/api", "agent/base"],
  "controller/app": ["controller", "agent/kubernetes", "agent/api", "agent/base"],
};
const quoted = (p) => p.replaceAll(".", "[.]");
const asPath = (room) => `^${quoted(room)}${room.endsWith(".ts") ? "$" : "/"}`;
const tests = "[.]test[.]ts$";
const rules = Object.entries(table).map(([room, allowed]) => ({
  name: `room ${room}`,
  severity: "error",
  from: { path: asPath(room), pathNot: tests },
  to: {
    path: "^(agent|controller|cli|test)/",
    pathNot: [room, ...allowed].map(asPath),
  },
}));
const openRules = Object.entries(open).map(([from, allowed]) => ({
  name: `composition ${from}`,
  severity: "error",
  from: { path: `^${from}`, pathNot: tests },
  to: { path: "^(agent|controller|cli|test)/", pathNot: allowed.map((a) => `^${quoted(a)}/`) },
}));
const known = [...Object.keys(table).map(asPath), ...Object.keys(open).map((o) => `^${o}`)];
module.exports = {
  forbidden: [
    ...rules,
    ...openRules,
    { name: "no cycles", severity: "error", from: {}, to: { circular: true } },
    {
      name: "pure rooms use no Node core and no package",
      severity: "error",
      from: { path: `^(${pureRooms.join("|")})/`, pathNot: tests },
      to: { dependencyTypes: ["core", "npm"] },
    },
    {
      name: "every folder has a row",
      severity: "error",
      from: { path: "^(agent|controller|cli)/", pathNot: [...known, tests] },
      to: {},
    },
    {
      name: "nothing imports tests",
      severity: "error",
      from: { path: "^(agent|controller)/", pathNot: tests },
      to: { path: "^test/" },
    },
  ],
  options: { tsPreCompilationDeps: true, doNotFollow: { path: "node_modules" }, exclude: { path: "node_modules" } },
};
