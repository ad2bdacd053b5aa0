// What is on the wire: frames and bytes a second over the last few seconds. Pure.

import { count } from "../words.js";

const WINDOW_S = 3;

export class Meter {
  /** @type {Map<number, { in: number, out: number, bytesIn: number, bytesOut: number }>} By second. */
  #seconds = new Map();

  /** @param {"in" | "out"} direction @param {number} bytes @param {number} now */
  add(direction, bytes, now) {
    const second = Math.floor(now / 1000);
    let row = this.#seconds.get(second);
    if (row === undefined) {
      row = { in: 0, out: 0, bytesIn: 0, bytesOut: 0 };
      this.#seconds.set(second, row);
      for (const old of this.#seconds.keys()) if (old < second - WINDOW_S) this.#seconds.delete(old);
    }
    row[direction] += 1;
    row[direction === "in" ? "bytesIn" : "bytesOut"] += bytes;
  }

  /** Rates over the last whole seconds. @param {number} now */
  rates(now) {
    const second = Math.floor(now / 1000);
    const sum = { in: 0, out: 0, bytesIn: 0, bytesOut: 0 };
    for (let back = 1; back <= WINDOW_S; back += 1) {
      const row = this.#seconds.get(second - back);
      if (row === undefined) continue;
      for (const key of /** @type {(keyof typeof sum)[]} */ (Object.keys(sum))) sum[key] += row[key];
    }
    for (const key of /** @type {(keyof typeof sum)[]} */ (Object.keys(sum))) sum[key] /= WINDOW_S;
    return sum;
  }
}

/** 74 B, 1.4 KB @param {number} bytes */
export const size = (bytes) => (bytes < 1000 ? `${Math.round(bytes)} B` : `${(bytes / 1000).toFixed(1)} KB`);

/** @param {ReturnType<Meter["rates"]>} rates */
export function wireSentence(rates) {
  const { in: came, out: went, bytesIn, bytesOut } = rates;
  if (came + went < 0.5) return "The wire is quiet: nobody moves.";
  const part = (/** @type {number} */ frames, /** @type {number} */ bytes) =>
    `${count(Math.round(frames))} a second, ${size(bytes)}/s`;
  return `On the wire: in ${part(came, bytesIn)}; out ${part(went, bytesOut)}. Each is a signal: never stored, at most once, and the first to be dropped under load.`;
}
