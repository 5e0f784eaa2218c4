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

/**
 * The environment beside them. Code without its types is kept in `codeDir` by Node; else each thread strips them anew at its start and keeps
 * the memory that took (15 to 20 MB each). The first start of a version fills it. Whoever may write there gives the agent its code.
 * glibc would give each of some 17 threads a heap of its own to allocate from, and what one of them freed no other could use: V8's compiler
 * threads alone left 10 to 15 MB behind. Two such heaps are enough, since what moves requests allocates next to nothing there.
 */
export const agentNodeEnvironment = (codeDir: string): Readonly<Record<string, string>> => ({
  NODE_COMPILE_CACHE: codeDir,
  MALLOC_ARENA_MAX: "2",
});
