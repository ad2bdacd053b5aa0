// From rows to what a widget shows: values, lines with gaps, sums, levels. Pure.

import { count } from "../words.js";

/** @typedef {import("./points.js").Row} Row */
/** @typedef {{ from: number, to: number, missing: number }} Hole Between two rows; `missing` messages were not received, 0: nothing was sent. */
/** @typedef {{ field: string, options: any }} Bound What a widget shows. */

const HOLE_PERIODS = 4;
const HOLE_LEAST_S = 5;
const SERIES_MOST = 6;

/** The value at a path, such as `cpu.user`. @param {any} data @param {string} path @returns {any} */
export function valueAt(data, path) {
  if (path === "") return data;
  let value = data;
  for (const name of path.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

/** @param {Row} row @param {string} path @returns {number | null} */
export function numberAt(row, path) {
  const value = valueAt(row.data, path);
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** @param {number} value @param {number} [digits] */
export function written(value, digits = 0) {
  if (digits > 0) return value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return Math.abs(value) < 10 && !Number.isInteger(value) ? value.toFixed(1) : count(Math.round(value));
}

/**
 * Which threshold a value has reached.
 *
 * @param {number | null} value
 * @param {{ warn?: number, alert?: number, below?: boolean }} options
 * @returns {"" | "warn" | "alert"}
 */
export function levelOf(value, { warn, alert, below = false }) {
  if (value === null) return "";
  /** @param {number | undefined} limit */
  const reached = (limit) => limit !== undefined && (below ? value <= limit : value >= limit);
  return reached(alert) ? "alert" : reached(warn) ? "warn" : "";
}

/** One number of many. @param {readonly number[]} values @param {string} fold */
export function folded(values, fold) {
  if (values.length === 0) return null;
  if (fold === "sum" || fold === "mean") {
    const sum = values.reduce((a, b) => a + b, 0);
    return fold === "sum" ? sum : sum / values.length;
  }
  return fold === "max" ? Math.max(...values) : values[values.length - 1];
}

/**
 * Where nothing is between two rows of one line.
 *
 * @param {readonly Row[]} rows
 * @param {(serial: number) => number} [before] The serial that should stand before this one; default: one less.
 * @returns {Hole[]}
 */
export function holes(rows, before = (serial) => serial - 1) {
  const steps = rows.slice(1, 50).map((row, index) => row.at - rows[index].at);
  steps.sort((a, b) => a - b);
  const longest = Math.max(HOLE_LEAST_S, HOLE_PERIODS * (steps[steps.length >> 1] ?? 0));
  /** @type {Hole[]} */
  const found = [];
  for (let i = 1; i < rows.length; i++) {
    const missing = Math.max(0, before(rows[i].serial) - rows[i - 1].serial);
    if (missing > 0 || rows[i].at - rows[i - 1].at > longest) found.push({ from: rows[i - 1].at, to: rows[i].at, missing });
  }
  return found;
}

/**
 * Lines for a chart: their labels, columns (times, then one for each line) and holes. `null` is a gap that no line crosses;
 * `undefined` means that this line has no value at a time at which another one has.
 *
 * @param {readonly Row[]} rows
 * @param {Bound} bound
 * @returns {{ labels: string[], data: (number | null | undefined)[][], holes: Hole[] }}
 */
export function lines(rows, { field, options }) {
  if (options.by_key) return byKey(rows, field);
  const fields = [field, ...(options.more ?? [])].slice(0, SERIES_MOST);
  const shown = rows.filter((row) => fields.some((each) => numberAt(row, each) !== null));
  const skips = shown.length === rows.length ? undefined : () => 0;
  const gaps = holes(shown, skips);
  const starts = new Map(gaps.map((gap) => [gap.from, gap]));
  /** @type {(number | null)[][]} */
  const data = [[], ...fields.map(() => [])];
  for (const row of shown) {
    data[0].push(row.at);
    fields.forEach((each, index) => data[index + 1].push(numberAt(row, each)));
    const gap = starts.get(row.at);
    if (gap === undefined) continue;
    data[0].push((gap.from + gap.to) / 2);
    for (const column of data.slice(1)) column.push(null);
  }
  return { labels: fields.map((each) => each.split(".").at(-1) ?? each), data, holes: gaps };
}

/** @param {readonly Row[]} rows @param {string} field */
function byKey(rows, field) {
  /** @type {Map<string, Row[]>} */
  const groups = new Map();
  for (const row of rows) {
    if (row.key === null || numberAt(row, field) === null) continue;
    const group = groups.get(row.key);
    if (group) group.push(row);
    else groups.set(row.key, [row]);
  }
  const labels = [...groups.keys()].sort().slice(0, SERIES_MOST);
  /** @type {Map<number, (number | null | undefined)[]>} */
  const byTime = new Map();
  /** @type {Hole[]} */
  let gaps = [];
  labels.forEach((label, index) => {
    const group = groups.get(label) ?? [];
    /** @param {number} at @param {number | null} value */
    const put = (at, value) => {
      const values = byTime.get(at) ?? labels.map(() => undefined);
      values[index] = value;
      byTime.set(at, values);
    };
    for (const row of group) put(row.at, numberAt(row, field));
    // Numbers of other keys stand between: a missing one cannot be told from them.
    const own = holes(group, () => 0);
    for (const gap of own) put((gap.from + gap.to) / 2, null);
    if (labels.length === 1) gaps = own;
  });
  const times = [...byTime.keys()].sort((a, b) => a - b);
  const data = [times, ...labels.map((_, index) => times.map((at) => byTime.get(at)?.[index]))];
  return { labels, data, holes: gaps };
}

/**
 * How often each value stands at a field. With `round`, only in the newest round.
 *
 * @param {readonly Row[]} rows
 * @param {Bound} bound
 * @returns {[string, number][]} Most first.
 */
export function tally(rows, { field, options }) {
  const round = options.round ? rows.map((row) => numberAt(row, options.round)).reduce((a, b) => (b !== null && (a === null || b > a) ? b : a), null) : null;
  /** @type {Map<string, number>} */
  const found = new Map();
  for (const row of rows) {
    if (options.event && row.event !== options.event) continue;
    if (round !== null && numberAt(row, options.round) !== round) continue;
    const value = valueAt(row.data, field);
    if (typeof value === "string" || typeof value === "number") found.set(String(value), (found.get(String(value)) ?? 0) + 1);
  }
  return [...found].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

/**
 * The path of a sparkline in a box of 120 × 30, with a gap in every hole.
 *
 * @param {readonly { at: number, value: number }[]} points
 * @param {number} from
 * @param {number} to
 * @param {readonly Hole[]} gaps
 */
export function sparkline(points, from, to, gaps) {
  const shown = points.filter(({ at }) => at >= from && at <= to);
  if (shown.length < 2) return "";
  const values = shown.map(({ value }) => value);
  const [lowest, highest] = [Math.min(...values), Math.max(...values)];
  const span = highest - lowest || 1;
  const starts = new Set(gaps.map((gap) => gap.to));
  return shown
    .map(({ at, value }, index) => {
      const x = ((at - from) / (to - from)) * 120;
      const y = 28 - ((value - lowest) / span) * 26;
      return `${index === 0 || starts.has(at) ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}
