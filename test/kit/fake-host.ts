// A node made of files, for what looks at control groups, processes and namespaces.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { NetnsFinder } from "../../agent/intercept/pod-netns.ts";

/** A host made of files: namespaces are plain files, what is the same file is the same namespace. */
export function makeHost(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-host-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const places = { cgroup: join(dir, "cgroup"), proc: join(dir, "proc"), netnsDirs: [join(dir, "netns")] };
  for (const folder of [places.cgroup, places.proc, join(dir, "netns"), join(dir, "kernel")]) mkdirSync(folder);
  const write = (path: string, text: string): void => {
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, text);
  };
  const namespace = (name: string): string => {
    const file = join(dir, "kernel", name);
    write(file, "");
    return file;
  };
  const host = namespace("host");
  const process = (
    pid: number | string,
    started: number,
    netns: string,
    more: { ip?: string; words?: string[] } = {},
  ): void => {
    const at = join(places.proc, String(pid));
    write(join(at, "stat"), `${pid} (a) b (x) S ${"0 ".repeat(18)}${started} 0 0\n`);
    write(join(at, "cmdline"), (more.words ?? ["/pause"]).join("\0"));
    write(
      join(at, "net/fib_trie"),
      more.ip === undefined ? "" : `Local:\n     |-- ${more.ip}\n        /32 host LOCAL\n`,
    );
    mkdirSync(join(at, "ns"), { recursive: true });
    rmSync(join(at, "ns/net"), { force: true });
    symlinkSync(netns, join(at, "ns/net"));
  };
  process("self", 0, host);
  process(1, 0, host);
  return {
    places,
    namespace,
    host,
    process,
    group: (path: string, ...pids: number[]) =>
      write(join(places.cgroup, path, "cgroup.procs"), pids.map((p) => `${p}\n`).join("")),
    name: (name: string, netns: string) => {
      rmSync(join(places.netnsDirs[0] ?? "", name), { force: true });
      symlinkSync(netns, join(places.netnsDirs[0] ?? "", name));
      return join(places.netnsDirs[0] ?? "", name);
    },
    unname: (name: string) => rmSync(join(places.netnsDirs[0] ?? "", name)),
    end: (pid: number) => rmSync(join(places.proc, String(pid)), { recursive: true }),
    finder: new NetnsFinder(places),
  };
}
