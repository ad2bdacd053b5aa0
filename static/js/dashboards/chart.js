// A line chart over time. uPlot draws the lines; this adds what it does not know: colours of the theme, holes, a limit.

import uPlot from "../../vendor/uplot/uplot.js";
import { el } from "../dom.js";
import { clockWithSeconds } from "../words.js";

/** @typedef {{ label: string, colour: string, dash?: number[], fill?: boolean }} Line */
/** @typedef {{ value: number, label: string, colour: string }} Limit */

/**
 * @typedef {object} ChartOptions
 * @property {(value: number) => string} format
 * @property {number} least The scale goes at least so far up; it begins at 0.
 * @property {Limit[]} limits
 */

/**
 * @typedef {object} Drawing
 * @property {(number | null | undefined)[][]} data
 * @property {Line[]} lines
 * @property {number} from Unix seconds.
 * @property {number} to
 * @property {import("./figures.js").Hole[]} holes
 * @property {{ from: number, text: string } | null} toCome From here to the right edge is still to come.
 */

const HATCH_STEP_PX = 7;
/** Seconds between the times at the foot: from some minutes on whole ones, whose seconds nobody has to read. */
const SHORT_STEPS = [1, 2, 5, 10, 15, 30];
const LONG_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
const SHORT_S = 240;

/** The colour that a custom property has now: a canvas understands neither var() nor light-dark(). @param {string} name */
function colourOf(name) {
  const probe = el("span", { hidden: true });
  document.body.append(probe);
  probe.style.color = `var(${name})`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

export class Chart {
  #box;
  #options;
  /** @type {uPlot | null} */
  #plot = null;
  /** @type {Drawing | null} */
  #drawing = null;
  #lines = "";
  #tip = el("div", { class: "tip", hidden: true });
  #toCome = el("span", { class: "to-come", hidden: true });

  /** @param {HTMLElement} box @param {ChartOptions} options */
  constructor(box, options) {
    this.#box = box;
    this.#options = options;
    box.append(this.#tip, this.#toCome);
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(box);
    addEventListener("themechange", () => this.#rebuild());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#rebuild());
  }

  destroy() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#drawing = null;
  }

  /** @param {Drawing} drawing */
  draw(drawing) {
    const isOther = this.#lines !== JSON.stringify(drawing.lines);
    this.#lines = JSON.stringify(drawing.lines);
    this.#drawing = drawing;
    this.#toCome.hidden = drawing.toCome === null;
    this.#toCome.textContent = drawing.toCome?.text ?? "";
    if (this.#plot === null || isOther) this.#rebuild();
    const plot = this.#plot;
    if (plot === null) return;
    plot.batch(() => {
      plot.setData(/** @type {uPlot.AlignedData} */ (drawing.data), false);
      plot.setScale("x", { min: drawing.from, max: drawing.to });
    });
    // The hatch moves also when neither data nor scale did.
    plot.redraw(false);
  }

  #size() {
    return { width: Math.max(120, this.#box.clientWidth), height: Math.max(80, this.#box.clientHeight) };
  }

  #rebuild() {
    const drawing = this.#drawing;
    this.#plot?.destroy();
    if (drawing === null) return;
    const { format, least, limits } = this.#options;
    const { lines } = drawing;
    const limitColours = limits.map(({ colour }) => colourOf(colour));
    const axis = colourOf("--axis");
    const grid = { stroke: colourOf("--grid"), width: 1 };
    const font = `11px ${getComputedStyle(document.documentElement).fontFamily}`;
    const hatch = { line: colourOf("--gap-hatch"), edge: colourOf("--slow") };
    // Where the system sets the colours, what is asked of an element is the colour of text.
    const surface = matchMedia("(forced-colors: active)").matches ? "Canvas" : colourOf("--surface");
    this.#plot = new uPlot(
      {
        ...this.#size(),
        class: "u",
        padding: [10, 24, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "dashboard" }, drag: { x: false, y: false }, points: { size: 7 }, y: false },
        scales: {
          x: { time: true, auto: false },
          // From 0: a scale that begins elsewhere makes small changes large.
          y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(least, (high ?? 0) * 1.08)] },
        },
        axes: [
          { stroke: axis, grid: { show: false }, ticks: { show: false }, font, size: 24, gap: 4, space: 50, incrs: (_plot, _axis, from, to) => (to - from < SHORT_S ? [...SHORT_STEPS, ...LONG_STEPS] : LONG_STEPS), values: timeLabels },
          { stroke: axis, grid, ticks: { show: false }, font, size: 38, gap: 6, space: 28, values: (_, marks) => marks.map(format) },
        ],
        series: [
          {},
          ...lines.map(({ label, colour, dash, fill }) => ({
            label,
            stroke: colourOf(colour),
            width: 1.8,
            dash,
            fill: fill ? withAlpha(colourOf(colour), 0.12) : undefined,
            points: { show: false },
            spanGaps: false,
          })),
        ],
        hooks: {
          drawClear: [
            (plot) => {
              for (const { from, to } of this.#drawing?.holes ?? []) drawHatch(plot, from, to, hatch.line, null);
              const toCome = this.#drawing?.toCome;
              if (toCome) drawHatch(plot, toCome.from, this.#drawing?.to ?? toCome.from, hatch.line, hatch.edge);
            },
          ],
          draw: [
            (plot) => {
              limits.forEach(({ value, label }, index) => drawLimit(plot, value, label, limitColours[index], surface, font));
            },
          ],
          setCursor: [(plot) => this.#drawTip(plot)],
        },
      },
      /** @type {uPlot.AlignedData} */ (drawing.data),
      this.#box,
    );
    this.#plot.setScale("x", { min: drawing.from, max: drawing.to });
  }

  /** @param {uPlot} plot */
  #drawTip(plot) {
    const { idx, left } = plot.cursor;
    const index = idx ?? -1;
    const at = index < 0 ? undefined : plot.data[0][index];
    const isShown = at !== undefined && left !== undefined && left >= 0 && plot.data.slice(1).some((column) => column[index] != null);
    this.#tip.hidden = !isShown;
    if (!isShown) return;
    const { format } = this.#options;
    const lines = this.#drawing?.lines ?? [];
    this.#tip.replaceChildren(
      el("b", {}, clockWithSeconds(at * 1000)),
      ...lines.map(({ label }, line) => {
        const value = plot.data[line + 1][index];
        return el("span", {}, el("i", { class: `key-${line + 1}` }), label, el("em", {}, value == null ? "–" : format(value)));
      }),
    );
    const middle = plot.bbox.left / devicePixelRatio + left;
    const width = this.#tip.offsetWidth;
    const isRight = middle + width + 16 > this.#box.clientWidth;
    this.#tip.style.left = `${isRight ? middle - width - 12 : middle + 12}px`;
  }
}

/** @param {uPlot} _ @param {number[]} marks */
function timeLabels(_, marks) {
  const step = marks.length > 1 ? marks[1] - marks[0] : 60;
  return marks.map((mark) => clockWithSeconds(mark * 1000).slice(0, step < 60 ? 8 : 5));
}

/** @param {string} colour As the browser computed it. @param {number} alpha */
function withAlpha(colour, alpha) {
  return `color-mix(in srgb, ${colour} ${alpha * 100}%, transparent)`;
}

/**
 * @param {uPlot} plot
 * @param {number} from
 * @param {number} to
 * @param {string} colour
 * @param {string | null} edge
 */
function drawHatch(plot, from, to, colour, edge) {
  const { ctx, bbox } = plot;
  const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
  const right = Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
  if (right - left < 1) return;
  const step = HATCH_STEP_PX * devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, bbox.top, right - left, bbox.height);
  ctx.clip();
  // The dashes of the line that was drawn last are still set.
  ctx.setLineDash([]);
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  for (let x = left - bbox.height; x < right; x += step) {
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x + bbox.height, bbox.top);
  }
  ctx.stroke();
  if (edge !== null) {
    ctx.strokeStyle = edge;
    ctx.beginPath();
    ctx.moveTo(left, bbox.top);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

/**
 * @param {uPlot} plot
 * @param {number} value
 * @param {string} label
 * @param {string} colour
 * @param {string} ground
 * @param {string} font
 */
function drawLimit(plot, value, label, colour, ground, font) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const y = plot.valToPos(value, "y", true);
  if (y < bbox.top) return;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * ratio;
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.font = font.replace("11px", `${11 * ratio}px`);
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  const width = ctx.measureText(label).width;
  ctx.fillStyle = ground;
  ctx.fillRect(bbox.left + 2 * ratio, y - 15 * ratio, width + 6 * ratio, 13 * ratio);
  ctx.fillStyle = colour;
  ctx.fillText(label, bbox.left + 5 * ratio, y - 2 * ratio);
  ctx.restore();
}
