// What is mirrored, with lists that are older than what was asked for by itself.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "./store.ts";
import type { RawObject } from "./wire.ts";

const object = (name: string): RawObject => ({ metadata: { name, namespace: "shop" } }) as unknown as RawObject;

test("[DP-22] what was asked for by itself outlives a list that may be older, and no other", () => {
  const store = new Store(
    (raw) => raw.metadata.name,
    () => {},
  );
  const names = (): string[] => [...store.values()].sort();
  const list = (...all: readonly string[]): void => {
    store.stage(all.map(object));
    store.commit();
  };
  list("a");
  store.stage([object("a")]);
  store.tell(object("told"));
  store.commit();
  assert.deepEqual(names(), ["a", "told"], "the list was under way");
  list("a");
  assert.deepEqual(names(), ["a"], "it is gone");
  store.tell(object("told"));
  store.remove(object("told"));
  list("a");
  assert.deepEqual(names(), ["a"], "its end was seen");
  store.tell(object("told"));
  store.put(object("told"));
  list("a");
  assert.deepEqual(names(), ["a"], "the watch has caught up");
});
