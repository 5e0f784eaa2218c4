// Draws lines over time as an SVG, with bands behind them for what was the case when. Pure text, no library.
import type { Line } from "./traces.ts";

export interface Band {
  readonly fromS: number;
  readonly toS: number;
  readonly label: string;
  readonly colour: string;
}
export interface Plot {
  readonly title: string;
  readonly y: string;
  readonly lines: readonly Line[];
  readonly bands: readonly Band[];
}

const WIDTH = 860;
const HEIGHT = 340;
const BOX = { left: 60, right: 20, top: 64, bottom: 46 } as const;
const colours = ["#1f6fb4", "#b4472f", "#2f7d5b", "#8a5fb0", "#b48a1f", "#444"];

/** A step for about `count` marks up to `most`: 1, 2 or 5 times a power of ten. */
function stepFor(most: number, count: number): number {
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((n) => n * power >= rough) ?? 10);
}

export function drawLines({ title, y, lines, bands }: Plot): string {
  const points = lines.flatMap((line) => line.points);
  const mostX = Math.max(...points.map(([x]) => x), 1);
  const stepY = stepFor(Math.max(...points.map(([, v]) => v), 1e-9) * 1.05, 5);
  const mostY = Math.ceil((Math.max(...points.map(([, v]) => v)) * 1.02) / stepY) * stepY;
  const [right, bottom] = [WIDTH - BOX.right, HEIGHT - BOX.bottom];
  const atX = (x: number): string => (BOX.left + (x / mostX) * (right - BOX.left)).toFixed(1);
  const atY = (v: number): string => (bottom - (v / mostY) * (bottom - BOX.top)).toFixed(1);
  const behind = bands.map(({ fromS, toS, label, colour }) => {
    const [from, to] = [Number(atX(fromS)), Number(atX(Math.min(toS, mostX)))];
    const text = to - from > 60 ? `<text x="${from + 4}" y="${BOX.top + 14}" class="small">${label}</text>` : "";
    const size = `width="${Math.max(0.5, to - from).toFixed(1)}" height="${bottom - BOX.top}"`;
    return `<rect x="${from}" y="${BOX.top}" ${size} fill="${colour}"/>${text}`;
  });
  const marks: string[] = [];
  for (let v = 0; v <= mostY + 1e-9; v += stepY) {
    const label = Number(v.toFixed(6));
    marks.push(
      `<line x1="${BOX.left}" x2="${right}" y1="${atY(v)}" y2="${atY(v)}" stroke="#ddd"/>`,
      `<text x="${BOX.left - 6}" y="${Number(atY(v)) + 4}" text-anchor="end" class="small">${label}</text>`,
    );
  }
  const stepX = stepFor(mostX, 8);
  for (let x = 0; x <= mostX; x += stepX)
    marks.push(`<text x="${atX(x)}" y="${bottom + 16}" text-anchor="middle" class="small">${x}</text>`);
  const drawn = lines.map(({ points: own }, i) => {
    const path = own.map(([x, v], at) => `${at === 0 ? "M" : "L"}${atX(x)} ${atY(v)}`).join("");
    return `<path d="${path}" fill="none" stroke="${colours[i % colours.length]}" stroke-width="1.8"/>`;
  });
  let legendX = BOX.left;
  const legend = lines.map(({ name }, i) => {
    const x = legendX;
    legendX += 40 + name.length * 7;
    const mark = `<line x1="${x}" x2="${x + 18}" y1="48" y2="48" stroke="${colours[i % colours.length]}" stroke-width="3"/>`;
    return `${mark}<text x="${x + 23}" y="52" class="small">${name}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="${title}">`,
    "<style>text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:12px;fill:#444}.title{font-size:16px;font-weight:600}</style>",
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="16" y="26" class="title">${title}</text>`,
    ...behind,
    ...marks,
    `<text x="${right}" y="${bottom + 34}" text-anchor="end" class="small">seconds; ${y}</text>`,
    ...drawn,
    ...legend,
    "</svg>",
    "",
  ].join("\n");
}
