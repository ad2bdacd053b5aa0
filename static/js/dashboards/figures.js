// From rows to what a widget shows: values, lines with gaps, sums, levels. Pure.

import { count } from "../words.js";

/** @typedef {import("./points.js").Row} Row */
/** @typedef {{ from: number, to: number, missing: number, index: number }} Hole Before the row of this index; `missing` messages were not received, 0: nothing was sent. */
/** @typedef {{ field: string, options: any }} Bound What a widget shows. */

const HOLE_PERIODS = 4;
const HOLE_LEAST_S = 5;
const SERIES_MOST = 6;
/** Spans of time of which a chart keeps the first, the last, the lowest and the highest: a wide one has no more pixels. */
const SLOTS = 800;
const SPARK_SLOTS = 120;

/** Paths of fields, split once. @type {Map<string, string[]>} */
const paths = new Map();

/** The value at a path, such as `cpu.user`. @param {any} data @param {string} path @returns {any} */
export function valueAt(data, path) {
  if (path === "") return data;
  let names = paths.get(path);
  if (names === undefined) paths.set(path, (names = path.split(".")));
  let value = data;
  for (const name of names) {
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

/** @param {number} age Seconds since a key was heard of. @param {number | undefined} limit None: keys may be quiet for ever. */
export const isQuiet = (age, limit) => limit !== undefined && age > limit;

/** One number of many. @param {readonly number[]} values @param {string} fold */
export function folded(values, fold) {
  if (values.length === 0) return null;
  if (fold === "sum" || fold === "mean") {
    const sum = values.reduce((a, b) => a + b, 0);
    return fold === "sum" ? sum : sum / values.length;
  }
  if (fold === "max") return values.reduce((a, b) => Math.max(a, b));
  if (fold === "min") return values.reduce((a, b) => Math.min(a, b));
  return values[values.length - 1];
}

/**
 * Which of many points are enough to look like all of them: of each slot of time the first and the last, and the lowest
 * and the highest of each column. No slot goes across a hole.
 *
 * @param {readonly number[]} times
 * @param {readonly (readonly (number | null)[])[]} columns
 * @param {readonly Hole[]} gaps
 * @param {number} slots
 * @returns {number[]} Indexes, in order.
 */
export function telling(times, columns, gaps, slots) {
  const all = times.length;
  if (all <= slots * 4) return times.map((_, index) => index);
  const long = (times[all - 1] - times[0]) / slots || 1;
  const starts = new Set(gaps.map((gap) => gap.index));
  /** @type {number[]} */
  const kept = [];
  let first = 0;
  for (let index = 1; index <= all; index++) {
    const isSame = index < all && !starts.has(index) && Math.floor((times[index] - times[0]) / long) === Math.floor((times[first] - times[0]) / long);
    if (isSame) continue;
    const found = new Set([first, index - 1]);
    for (const column of columns) {
      let [low, high] = [-1, -1];
      for (let each = first; each < index; each++) {
        const value = column[each];
        if (value === null) continue;
        if (low < 0 || value < /** @type {number} */ (column[low])) low = each;
        if (high < 0 || value > /** @type {number} */ (column[high])) high = each;
      }
      if (low >= 0) found.add(low).add(high);
    }
    kept.push(...[...found].sort((a, b) => a - b));
    first = index;
  }
  return kept;
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
    if (missing > 0 || rows[i].at - rows[i - 1].at > longest) found.push({ from: rows[i - 1].at, to: rows[i].at, missing, index: i });
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
  const ends = new Map(gaps.map((gap) => [gap.index - 1, gap]));
  const columns = fields.map((each) => shown.map((row) => numberAt(row, each)));
  /** @type {(number | null)[][]} */
  const data = [[], ...fields.map(() => [])];
  for (const index of telling(shown.map((row) => row.at), columns, gaps, SLOTS)) {
    data[0].push(shown[index].at);
    columns.forEach((column, line) => data[line + 1].push(column[index]));
    const gap = ends.get(index);
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
  /** Messages that were published together have one time: then there are several points at it. @type {Map<number, (number | null | undefined)[][]>} */
  const byTime = new Map();
  /** @type {Hole[]} */
  let gaps = [];
  labels.forEach((label, index) => {
    const group = groups.get(label) ?? [];
    /** @param {number} at @param {number | null} value */
    const put = (at, value) => {
      const points = byTime.get(at) ?? [];
      byTime.set(at, points);
      let point = points.find((each) => each[index] === undefined);
      if (point === undefined) points.push((point = labels.map(() => undefined)));
      point[index] = value;
    };
    // Numbers of other keys stand between: a missing one cannot be told from them.
    const own = holes(group, () => 0);
    const values = group.map((row) => numberAt(row, field));
    for (const each of telling(group.map((row) => row.at), [values], own, SLOTS)) put(group[each].at, values[each]);
    for (const gap of own) put((gap.from + gap.to) / 2, null);
    if (labels.length === 1) gaps = own;
  });
  const points = [...byTime].sort(([a], [b]) => a - b).flatMap(([at, each]) => each.map((values) => ({ at, values })));
  const data = [points.map(({ at }) => at), ...labels.map((_, index) => points.map(({ values }) => values[index]))];
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
  const [lowest, highest] = [folded(values, "min") ?? 0, folded(values, "max") ?? 0];
  const span = highest - lowest || 1;
  const starts = new Set(gaps.map((gap) => gap.to));
  const breaks = shown.flatMap(({ at }, index) => (starts.has(at) && shown[index - 1]?.at !== at ? [{ from: at, to: at, missing: 0, index }] : []));
  const begins = new Set(breaks.map(({ index }) => index));
  let isBroken = true;
  let [path, before] = ["", -1];
  for (const index of telling(shown.map(({ at }) => at), [values], breaks, SPARK_SLOTS)) {
    for (let each = before + 1; each <= index; each++) isBroken ||= begins.has(each);
    before = index;
    const x = ((shown[index].at - from) / (to - from)) * 120;
    const y = 28 - ((values[index] - lowest) / span) * 26;
    path += `${isBroken ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    isBroken = false;
  }
  return path;
}

/** The ground under a sparkline: each of its pieces, closed at the foot of the box. @param {string} path */
export function groundOf(path) {
  return path
    .split("M")
    .slice(1)
    .map((piece) => `M${piece.split(" ")[0]} 30L${piece}L${piece.split("L").at(-1)?.split(" ")[0]} 30Z`)
    .join("");
}
