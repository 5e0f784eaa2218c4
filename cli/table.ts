// Text for people: aligned columns, colours on a terminal only, sizes and durations. Pure.

export type Colour = "green" | "red" | "yellow" | "grey" | "bold" | "cyan";
const codes: Readonly<Record<Colour, string>> = {
  green: "32",
  red: "31",
  yellow: "33",
  grey: "90",
  bold: "1",
  cyan: "36",
};

export interface Cell {
  readonly text: string;
  readonly colour?: Colour;
}
export const cell = (text: string, colour?: Colour): Cell => (colour === undefined ? { text } : { text, colour });

export const paint = (text: string, colour: Colour | undefined, on: boolean): string =>
  on && colour !== undefined ? `\u001b[${codes[colour]}m${text}\u001b[0m` : text;

/** Control characters from the network or a manifest must not reach the terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
export const printable = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");

/** Columns as wide as their widest cell; the last is not padded. */
export function table(head: readonly string[], rows: readonly (readonly (string | Cell)[])[], colour: boolean): string {
  const cells = rows.map((row) =>
    row.map((c) => (typeof c === "string" ? { text: printable(c) } : { ...c, text: printable(c.text) })),
  );
  const widths = head.map((h, i) => Math.max(h.length, ...cells.map((row) => row[i]?.text.length ?? 0)));
  const line = (row: readonly Cell[], paintAll?: Colour): string =>
    row
      .map((c, i) => paint(i === row.length - 1 ? c.text : c.text.padEnd(widths[i] ?? 0), paintAll ?? c.colour, colour))
      .join("  ");
  return [
    line(
      head.map((text) => ({ text })),
      "bold",
    ),
    ...cells.map((row) => line(row)),
  ]
    .map((l) => l.trimEnd())
    .join("\n");
}

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = n;
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A length of time in the unit that reads best. */
export function duration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(ms / 60_000);
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 1440)} d`;
}
