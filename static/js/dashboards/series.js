// The readings of a feed, as charts need them: in order of time, with holes where there is nothing. Pure.

/** @typedef {{ serial: number, at: number, wind: number, gust: number, temperature: number, visitors: number }} Reading `at` in Unix seconds. */
/** @typedef {"wind" | "gust" | "temperature" | "visitors"} Measure */
/** @typedef {{ from: number, to: number, missing: number }} Hole Between two readings; `missing` messages could not be had, 0: nothing was read. */

/** Readings further apart than this many periods have a hole between them. */
const HOLE_PERIODS = 2.5;

/**
 * @param {{ serial: number, data: any }} frame
 * @returns {Reading | null} Null for what is no reading.
 */
export function toReading({ serial, data }) {
  if (typeof data !== "object" || data === null) return null;
  const { at, wind, gust, temperature, visitors } = data;
  const reading = { serial, at, wind, gust, temperature, visitors };
  return Object.values(reading).every(Number.isFinite) ? reading : null;
}

/**
 * Adds readings. One of a second that is there already takes its place: it says the same.
 *
 * @param {readonly Reading[]} readings
 * @param {readonly Reading[]} added
 * @param {number} most How many are kept, the newest.
 * @returns {Reading[]}
 */
export function add(readings, added, most) {
  const last = readings[readings.length - 1];
  const isNewer = added.every((reading, index) => reading.at > (index === 0 ? (last?.at ?? -Infinity) : added[index - 1].at));
  if (isNewer) return [...readings, ...added].slice(-most);
  const byTime = new Map([...readings, ...added].map((reading) => [reading.at, reading]));
  return [...byTime.values()].sort((a, b) => a.at - b.at).slice(-most);
}

/**
 * What lies between two seconds, with one reading more on each side, so that lines run to the edge.
 *
 * @param {readonly Reading[]} readings
 * @param {number} from
 * @param {number} to
 */
export function between(readings, from, to) {
  let first = readings.findIndex((reading) => reading.at >= from);
  if (first < 0) first = readings.length;
  let end = readings.length;
  while (end > first && readings[end - 1].at > to) end -= 1;
  return readings.slice(Math.max(0, first - 1), Math.min(readings.length, end + 1));
}

/**
 * Where nothing is between two readings.
 *
 * @param {readonly Reading[]} readings
 * @param {number} periodS
 * @returns {Hole[]}
 */
export function holes(readings, periodS) {
  /** @type {Hole[]} */
  const found = [];
  for (let i = 1; i < readings.length; i++) {
    const [before, after] = [readings[i - 1], readings[i]];
    const missing = Math.max(0, after.serial - before.serial - 1);
    if (missing > 0 || after.at - before.at > HOLE_PERIODS * periodS) found.push({ from: before.at, to: after.at, missing });
  }
  return found;
}

/**
 * Columns for a chart: times, then a column for each measure, with a null in every hole, so that no line crosses it.
 *
 * @param {readonly Reading[]} readings
 * @param {readonly Measure[]} measures
 * @param {number} periodS
 * @returns {(number | null)[][]}
 */
export function columns(readings, measures, periodS) {
  const starts = new Set(holes(readings, periodS).map((hole) => hole.from));
  /** @type {(number | null)[][]} */
  const result = [[], ...measures.map(() => [])];
  for (const reading of readings) {
    result[0].push(reading.at);
    measures.forEach((measure, index) => result[index + 1].push(reading[measure]));
    if (!starts.has(reading.at)) continue;
    result[0].push(reading.at + periodS / 2);
    for (const column of result.slice(1)) column.push(null);
  }
  return result;
}

/**
 * The path of a sparkline in a box, with a gap in every hole.
 *
 * @param {readonly Reading[]} readings
 * @param {Measure} measure
 * @param {{ from: number, to: number, width: number, height: number, periodS: number, leastSpan: number }} box `leastSpan`: what the
 *   height stands for at least, so that noise does not look like weather.
 */
export function sparkline(readings, measure, { from, to, width, height, periodS, leastSpan }) {
  const shown = readings.filter((reading) => reading.at >= from && reading.at <= to);
  if (shown.length < 2) return "";
  const values = shown.map((reading) => reading[measure]);
  const [lowest, highest] = [Math.min(...values), Math.max(...values)];
  const span = Math.max(leastSpan, highest - lowest);
  const low = (lowest + highest - span) / 2;
  const starts = new Set(holes(shown, periodS).map((hole) => hole.to));
  return shown
    .map((reading, index) => {
      const x = ((reading.at - from) / (to - from)) * width;
      const y = height - 2 - ((reading[measure] - low) / span) * (height - 4);
      return `${index === 0 || starts.has(reading.at) ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}

/** @param {readonly Reading[]} readings @param {Measure} measure */
export function extent(readings, measure) {
  const values = readings.map((reading) => reading[measure]);
  return values.length === 0 ? null : { low: Math.min(...values), high: Math.max(...values) };
}
