// How Node is to be started for an agent; whoever starts one uses these (a container image, the lab). Read at start by V8, so no
// setting inside the process can stand in for them.
export const agentNodeFlags: readonly string[] = [
  "--disable-warning=ExperimentalWarning",
  // New objects: decisions die young. V8's 16 MiB would stay with the process after the first large update of discovery. Data
  // threads have their own limit (app/data-threads.ts).
  "--max-semi-space-size=1",
  // Old objects: a full collection once the heap grew by this much in percent, not when it doubled.
  "--heap-growing-percent=30",
];
