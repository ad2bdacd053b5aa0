// Small helpers for the document. Text enters it as text only: nothing here takes HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | boolean | null | undefined>} [attributes] `class`, `hidden`, data and aria attributes; false
 *   and null leave one out.
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

/**
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...Node} children
 */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** An icon of templates/partials/icons.html. @param {string} name @param {string} [size] */
export function icon(name, size = "") {
  return svg("svg", { class: `ico ${size}`.trim(), "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** @param {number} cx @param {string} [step] */
const full = (cx, step = "") => svg("circle", { class: `f ${step}`.trim(), cx, cy: 6, r: 4 });
/** @param {number} cx @param {string} [step] */
const open = (cx, step = "") => svg("circle", { class: `o ${step}`.trim(), cx, cy: 6, r: 3.4 });
/** @param {string} d @param {Record<string, string | number>} [more] */
const wire = (d, more = {}) => svg("path", { class: "w", d, ...more });

/** @type {Record<string, () => Node[]>} */
const THREADS = {
  live: () => [wire("M9 6H13M21 6H25"), full(5), full(17), full(29)],
  connecting: () => [wire("M9 6H13M21 6H25", { "stroke-dasharray": "1.5 1.5" }), open(5, "p1"), open(17, "p2"), open(29, "p3")],
  catching: () => [wire("M9 6H13M21 6H25"), full(5), full(17, "p2"), open(29)],
  slow: () => [wire("M7 6H11"), wire("M15.5 6H25", { "stroke-dasharray": "1.6 1.8" }), full(4), full(13), full(30)],
  offline: () => [wire("M9 6H12M13.5 10.5 18.5 1.5M20.5 6H25"), full(5), open(29)],
  danger: () => [wire("M9 6H20"), full(5), wire("M24.5 1.5 33.5 10.5M33.5 1.5 24.5 10.5", { "stroke-width": 2 })],
};

/** The thread of a state: three beads. @param {string} glyph A key of `THREADS`. */
export function thread(glyph) {
  return svg("svg", { class: `thread ${glyph}`, viewBox: "0 0 34 12", "aria-hidden": "true" }, ...THREADS[glyph]());
}

/**
 * The element that `selector` finds; a page without it has the wrong template.
 *
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [within]
 * @returns {T}
 */
export function find(selector, within = document) {
  const found = within.querySelector(selector);
  if (!found) throw new Error(`The page has no ${selector}.`);
  return /** @type {T} */ (/** @type {unknown} */ (found));
}

/** The data that the server wrote into the page. @returns {any} */
export function pageData() {
  return JSON.parse(find("#page-data").textContent ?? "null");
}

/** Whether a key press belongs to a field. @param {EventTarget | null} target */
export function isField(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}
