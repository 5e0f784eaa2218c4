// Mutation fuzzer of the TypeScript parsers: mutate.ts TARGET SECONDS [SEED]. An input that leads to something new is kept in
// memory, and written to corpus/TARGET at the end if few are there; a breach is written beside it and named. Same seed, same
// inputs.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FuzzTarget } from "./target.ts";
import { targets } from "./targets.ts";

/** Of this process: on a busy machine time passes without its doing. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

const folder = join(import.meta.dirname, "corpus");
const mostKept = 2_000;
/** Files of a target in the corpus: the replay stays fast and the repository small. */
const mostFiles = 40;

/** xorshift32: below(n) is 0 to n-1. */
function generator(seed: number): (n: number) => number {
  let x = seed >>> 0 || 1;
  return (n) => {
    x ^= x << 13;
    x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5;
    x >>>= 0;
    return x % Math.max(1, n);
  };
}

const telling = [0, 1, 2, 0x05, 0x0d, 0x30, 0x31, 0x7f, 0x80, 0x82, 0x84, 0xa0, 0xff];

/** One to four changes: a bit, a telling byte, bytes put in, taken out or doubled, a piece of another input, a cut. */
function mutate(input: Buffer, other: Buffer, below: (n: number) => number, maxBytes: number): Buffer {
  let bytes = Buffer.from(input);
  for (let left = 1 + below(4); left > 0; left -= 1) {
    const at = below(bytes.length + 1);
    const length = below(16) + 1;
    const head = bytes.subarray(0, at);
    const tail = bytes.subarray(at);
    const kind = below(8);
    if (kind === 0 && tail.length > 0) bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
    else if (kind === 1 && tail.length > 0) bytes[at] = telling[below(telling.length)] ?? 0;
    else if (kind === 2) bytes = Buffer.concat([head, Buffer.from(Array.from({ length }, () => below(256))), tail]);
    else if (kind === 3) bytes = Buffer.concat([head, tail.subarray(length)]);
    else if (kind === 4) bytes = Buffer.concat([head, tail.subarray(0, length * 8), tail]);
    else if (kind === 5) {
      const from = below(other.length);
      bytes = Buffer.concat([head, other.subarray(from, from + below(256)), tail]);
    } else if (kind === 6) bytes = Buffer.concat([head, other.subarray(below(other.length))]);
    else if (below(4) === 0) bytes = Buffer.from(head);
  }
  return bytes.subarray(0, maxBytes);
}

async function breach(target: FuzzTarget, input: Buffer, why: string): Promise<never> {
  await target.close?.();
  const path = join(import.meta.dirname, `crash-${target.name}-${createHash("sha1").update(input).digest("hex")}`);
  writeFileSync(path, input);
  console.log(`${target.name}: ${why}\nthe input is in ${path}`);
  process.exit(1);
}

async function fuzz(target: FuzzTarget, seconds: number, seed: number): Promise<void> {
  const below = generator(seed);
  const slowMs = target.slowMs ?? 1_000;
  const own = join(folder, target.name);
  mkdirSync(own, { recursive: true });
  const files = readdirSync(own).sort();
  const corpus: Buffer[] = files.map((f) => readFileSync(join(own, f)));
  corpus.push(Buffer.alloc(0));
  const seen = new Set<string>();
  const found: Buffer[] = [];
  let slowest = 0;
  let runs = 0;
  const one = async (input: Buffer): Promise<boolean> => {
    const began = cpuMs();
    let outcome = "";
    try {
      outcome = await target.run(input);
    } catch (error) {
      await breach(target, input, error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
    const took = cpuMs() - began;
    slowest = Math.max(slowest, took);
    // Once more before it counts: the machine may have been busy with something else.
    if (took > slowMs) {
      const again = cpuMs();
      await target.run(input);
      if (cpuMs() - again > slowMs) await breach(target, input, `took ${took.toFixed(0)} ms`);
    }
    runs += 1;
    if (seen.has(outcome)) return false;
    seen.add(outcome);
    return true;
  };
  for (const input of [...corpus]) await one(input);
  const end = performance.now() + seconds * 1_000;
  let next = performance.now() + 30_000;
  while (performance.now() < end) {
    const pick = (): Buffer => corpus[below(corpus.length)] ?? Buffer.alloc(0);
    const input = mutate(pick(), pick(), below, target.maxBytes);
    if ((await one(input)) && corpus.length < mostKept) {
      corpus.push(input);
      found.push(input);
    }
    if (performance.now() > next) {
      next += 30_000;
      console.log(`${target.name}: ${runs} runs, ${seen.size} outcomes`);
    }
  }
  for (const input of found.slice(0, Math.max(0, mostFiles - files.length))) {
    writeFileSync(join(own, createHash("sha1").update(input).digest("hex")), input);
  }
  await target.close?.();
  console.log(`${target.name}: ${runs} runs, ${seen.size} outcomes, slowest ${slowest.toFixed(0)} ms, seed ${seed}`);
}

const [name, seconds, seed] = process.argv.slice(2);
const target = targets.find((t) => t.name === name);
if (target === undefined || !(Number(seconds) > 0)) {
  console.error(`usage: mutate.ts TARGET SECONDS [SEED]; targets: ${targets.map((t) => t.name).join(", ")}`);
  process.exit(2);
}
await fuzz(target, Number(seconds), Number(seed ?? 1));
