// Draws the results as one SVG: for each measure a bar of how far ours is from its goal, 1.0 being the goal itself. Pure text, no library.
import type { Row } from "./rows.ts";

const WIDTH = 980;
const ROW = 26;
const LABEL = 470;
const VALUES = 130;
const TOP = 64;
/** Bars end here; what is further is cut with an arrow in its number. */
const MOST = 3;

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** How many times better than its goal a row is: above 1 is met, whatever the direction. */
export function margin(row: Row): number {
  const { goal } = row;
  // Not carried at all.
  if (Number.isNaN(row.ratio)) return 0;
  if ("peer" in goal) return goal.op === ">=" ? row.ratio / goal.ratio : goal.ratio / Math.max(row.ratio, 1e-9);
  if (goal.value === 0) return row.ours <= 0 ? MOST : 0;
  return goal.op === ">=" ? row.ours / goal.value : goal.value / Math.max(row.ours, goal.value / 1000);
}

export function drawPlot(rows: readonly Row[], subtitle: string, layer: 4 | 7 = 4): string {
  const height = TOP + rows.length * ROW + 46;
  const span = WIDTH - LABEL - VALUES;
  const x = (value: number): number => LABEL + (Math.min(value, MOST) / MOST) * span;
  const bars = rows.map((row, i) => {
    const y = TOP + i * ROW;
    const value = margin(row);
    const colour = row.met ? "#2f7d5b" : "#b4472f";
    const text = value >= 10 ? ">10x" : `${value.toFixed(2)}x`;
    return [
      `<text x="${LABEL - 10}" y="${y + 16}" text-anchor="end">${escaped(row.measure)}</text>`,
      `<rect x="${LABEL}" y="${y + 4}" width="${Math.max(x(value) - LABEL, 1).toFixed(1)}" height="${ROW - 9}" rx="2" fill="${colour}"/>`,
      `<text x="${(x(value) + 6).toFixed(1)}" y="${y + 17}" class="value">${text}${row.met ? "" : " missed"}</text>`,
    ].join("");
  });
  const ticks = [0.5, 1, 1.5, 2, 2.5, 3].map((t) => {
    const bottom = TOP + rows.length * ROW + 4;
    const style = t === 1 ? 'stroke="#222" stroke-width="1.5"' : 'stroke="#ccc"';
    return `<line x1="${x(t)}" y1="${TOP - 4}" x2="${x(t)}" y2="${bottom}" ${style}/><text x="${x(t)}" y="${bottom + 16}" text-anchor="middle" class="value">${t}${t === 1 ? " = goal" : ""}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="Each measure against its goal">`,
    "<style>text{font:13px system-ui,sans-serif;fill:#222}.value{font-size:12px;fill:#444}.title{font-size:17px;font-weight:600}</style>",
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="16" y="26" class="title">Layer ${layer}: how many times better than its goal each measure is</text>`,
    `<text x="16" y="46" class="value">${escaped(subtitle)}</text>`,
    ...ticks,
    ...bars,
    "</svg>",
    "",
  ].join("\n");
}
