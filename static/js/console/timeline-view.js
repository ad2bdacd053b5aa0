// Draws the serial line.

import { svg } from "../dom.js";

const STEP = 31;
const LINE_Y = 62;
/** The width of a letter of a label, about. */
const LETTER_PX = 6.6;

/** @param {number} index */
const xOf = (index) => 26 + index * STEP;

/** @param {string} text @param {Record<string, string | number>} attributes */
function words(text, attributes) {
  const node = svg("text", attributes);
  node.textContent = text;
  return node;
}

/** How many beads fit. @param {number} width */
export const beadsIn = (width) => Math.max(8, Math.floor((width - 60) / STEP));

/**
 * @param {Element} place An <svg>.
 * @param {import("./timeline.js").Timeline} drawn
 * @param {number} width
 */
export function drawTimeline(place, drawn, width) {
  const { beads } = drawn;
  const first = beads[0]?.serial ?? 0;
  const at = (/** @type {number} */ serial) => xOf(serial - first);
  const nodes = [svg("path", { class: "string", d: `M0 ${LINE_Y}H${width}` })];
  /** @type {{ words: string, kind: string, from: number, to: number, anchor: "start" | "end" }[]} In the order of their weight. */
  const labels = [];
  for (const { from, to, label } of drawn.resumed) {
    nodes.push(svg("rect", { class: "resumed", x: at(from) - 15, y: 42, width: (to - from) * STEP + 30, height: 40, rx: 6 }));
    labels.push({ words: label, kind: "catching", from: at(from) - 9, to: at(from) - 9 + label.length * LETTER_PX, anchor: "start" });
  }
  if (drawn.window !== null) {
    const { from, to, label, isFull } = drawn.window;
    // A window that only begins to fill is no warning.
    const kind = isFull ? "slow" : "calm";
    nodes.push(svg("rect", { class: `window ${kind}`, x: at(from) - 15, y: 42, width: (to - from) * STEP + 30, height: 40, rx: 8 }));
    const end = Math.max(label.length * LETTER_PX, at(to) + 15);
    labels[isFull ? "unshift" : "push"]({ words: label, kind, from: end - label.length * LETTER_PX, to: end, anchor: "end" });
  }
  // Labels that would meet: the one that weighs more stays.
  /** @type {typeof labels} */
  const placed = [];
  for (const label of labels) {
    if (placed.some(({ from, to }) => label.from < to + LETTER_PX && from < label.to + LETTER_PX)) continue;
    placed.push(label);
    nodes.push(words(label.words, { class: `lab ${label.kind}`, x: label.anchor === "end" ? label.to : label.from, y: 34, "text-anchor": label.anchor }));
  }
  for (const { after, label } of drawn.cuts) {
    const x = at(after) + STEP / 2;
    nodes.push(svg("path", { class: "cut", d: `M${x - 3} 75 ${x + 3} 49` }), words(label, { class: "said", x, y: 112, "text-anchor": "middle" }));
  }
  for (const { serial, state, isLabelled } of beads) {
    const x = at(serial);
    nodes.push(svg("circle", { class: `bead ${state}`, cx: x, cy: LINE_Y, r: state === "waiting" ? 7.2 : 8 }));
    if (state === "acked") nodes.push(svg("path", { class: "tick", d: `m${x - 3.5} ${LINE_Y} 2.6 2.8 4.6-5.4` }));
    if (state === "skipped") nodes.push(svg("path", { class: "cross", d: `M${x - 3} ${LINE_Y - 3}l6 6m0-6-6 6` }));
    if (isLabelled) nodes.push(words(String(serial), { x, y: 98, "text-anchor": "middle" }));
  }
  if (drawn.more !== "") nodes.push(words(drawn.more, { class: "said", x: xOf(beads.length) - 8, y: LINE_Y + 4 }));
  place.setAttribute("viewBox", `0 20 ${width} 98`);
  place.setAttribute("width", String(width));
  place.setAttribute("aria-label", drawn.name);
  place.replaceChildren(...nodes);
}
