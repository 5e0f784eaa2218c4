// How Node is to be started for a controller; whoever starts one uses these (a container image, tests). Read at start by V8, so no setting
// inside the process can stand in for them. What they are worth with 10,000 pods and 200 agents: docs/scale.md.
export const controllerNodeFlags: readonly string[] = [
  "--disable-warning=ExperimentalWarning",
  // New objects: events and responses die young. V8's 16 MiB would stay with the process after the first large list.
  "--max-semi-space-size=2",
  // Old objects: a full collection once the heap has doubled, not when it is four times as large.
  "--heap-growing-percent=100",
  // Collections beside the program's own thread: V8's four helpers at once take every core of a small node, and a collection of new objects
  // waits for all of them. One helper marks old objects more slowly; with none memory grows by a quarter.
  "--no-parallel-scavenge",
  "--v8-pool-size=1",
];
