// The last stage of a Dockerfile as the definition has it, and the reading of Dockerfiles, so that a test can compare both.
import type { ImageDefinition } from "./definition.ts";

export interface Instruction {
  readonly word: string;
  readonly rest: string;
}

/** Stages of a Dockerfile, each beginning with its FROM; comments and continued lines are taken away. Before the first FROM: stage 0. */
export function parseDockerfile(text: string): readonly (readonly Instruction[])[] {
  const stages: Instruction[][] = [[]];
  for (const line of text.replaceAll(/\\\n\s*/g, "").split("\n")) {
    const found = /^([A-Z]+)\s+(.+)$/.exec(line.trim());
    if (found === null) continue;
    const [, word = "", rest = ""] = found;
    if (word === "FROM") stages.push([]);
    stages.at(-1)?.push({ word, rest });
  }
  return stages;
}

/** What the image is besides its files. */
export function lastLines(definition: ImageDefinition, version: string): readonly string[] {
  const labels = {
    "org.opencontainers.image.title": definition.title,
    "org.opencontainers.image.version": version,
    "org.opencontainers.image.licenses": "Apache-2.0",
  };
  return [
    ...Object.entries(labels).map(([name, value]) => `LABEL ${name}=${JSON.stringify(value)}`),
    ...Object.entries(definition.env).map(([name, value]) => `ENV ${name}=${value}`),
    "WORKDIR /",
    `USER ${definition.user}`,
    `ENTRYPOINT ${JSON.stringify(definition.entrypoint)}`,
  ];
}
