// The widgets: each takes a view of its channel and draws it. What is computed is in figures.js.

import { el, svg, thread } from "../dom.js";
import { clockWithSeconds, count, span } from "../words.js";
import { Chart } from "./chart.js";
import * as figures from "./figures.js";
import { between, firstFrom } from "./points.js";

/** @typedef {import("./points.js").Row} Row */
/** @typedef {{ kind: string, title: string, channel: string, field: string, options: any, span: number }} Described */

/**
 * @typedef {object} View What a widget may draw from.
 * @property {readonly Row[]} rows All that is held, through the moment that is shown.
 * @property {readonly Row[]} state The newest of each key.
 * @property {number} from Unix seconds.
 * @property {number} to
 * @property {{ from: number, text: string } | null} toCome
 * @property {boolean} isWhole All that was sent through `to` is here: what is missing was not sent.
 */

/**
 * @typedef {object} Drawn What the widget shows.
 * @property {"" | "warn" | "alert"} level
 * @property {string} words In a word: for alerts and names.
 * @property {(number | null | undefined)[][]} [data] Times, then the values of each line.
 */
/** @typedef {(view: View) => Drawn} Draw */

const COLOURS = [1, 2, 3, 4, 5, 6].map((number) => `--series-${number}`);
const DASHES = [undefined, [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [10, 4]];
const ROWS_MOST = 60;
const FEED_MOST = 30;
const SILENT = "Silent for ";
/** @type {Record<string, [string, string]>} Word of a state → sign and its word. */
const LIGHTS = { live: ["live", "Well"], ok: ["live", "Well"], true: ["live", "Well"], slow: ["slow", "Slow"], warn: ["slow", "Look"], danger: ["danger", "In trouble"], alert: ["danger", "In trouble"], false: ["danger", "In trouble"] };

/**
 * @param {Described} widget
 * @param {HTMLElement} body
 * @param {HTMLElement} header
 * @returns {Draw}
 */
export function makeWidget(widget, body, header) {
  return MAKERS[widget.kind](widget, body, header);
}

/** @param {Described} widget @param {number | null} value */
const withUnit = ({ options }, value) => (value === null ? "–" : `${figures.written(value, options.digits)}${options.unit ? ` ${options.unit}` : ""}`);

/** Rows that this widget is about. @param {Described} widget @param {readonly Row[]} rows */
const own = ({ options }, rows) => (options.event ? rows.filter((row) => row.event === options.event) : rows);

/** For how long a key has said nothing, where the widget has a limit for that and it is over. @param {Described} widget @param {View} view @param {Row} row */
const quietFor = ({ options }, view, row) => (view.isWhole && figures.isQuiet(view.to - row.at, options.quiet) ? view.to - row.at : null);

/** The number of a widget now: of the newest row, or of the newest of each key. @param {Described} widget @param {View} view */
function valueNow(widget, view) {
  const { field, options } = widget;
  const rows = options.fold && options.fold !== "newest" && view.state.length > 0 ? view.state : own(widget, view.rows);
  for (let index = rows.length - 1; index >= 0 && rows !== view.state; index--) {
    const value = figures.numberAt(rows[index], field);
    if (value !== null) return value;
  }
  const heard = view.state.filter((row) => quietFor(widget, view, row) === null);
  return figures.folded(heard.map((row) => figures.numberAt(row, field)).filter((value) => value !== null), options.fold ?? "newest");
}

/** @param {Described} widget @param {number | null} value @returns {Drawn} */
function drawnOf(widget, value) {
  const { warn, alert, below } = widget.options;
  const level = figures.levelOf(value, widget.options);
  const limit = level === "alert" ? alert : warn;
  return { level, words: level === "" ? withUnit(widget, value) : `${withUnit(widget, value)}, ${below ? "at or under" : "at or over"} ${limit}` };
}

/** @param {Element} node @param {string} text */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @type {Record<string, (widget: Described, body: HTMLElement, header: HTMLElement) => Draw>} */
const MAKERS = {
  line: (widget, body, header) => chart(widget, body, header, false),
  area: (widget, body, header) => chart(widget, body, header, true),

  number(widget, body) {
    const value = el("span", { "data-value": true }, "–");
    const unit = el("small", {}, widget.options.unit ?? "");
    const range = el("p", { class: "delta" });
    const path = svg("path", { d: "" });
    const ground = svg("path", { class: "ground", d: "" });
    body.append(el("p", { class: "num" }, value, unit), range, svg("svg", { class: "spark", viewBox: "0 0 120 30", preserveAspectRatio: "none", "aria-hidden": "true" }, ground, path));
    return (view) => {
      const now = valueNow(widget, view);
      put(value, now === null ? "–" : figures.written(now, widget.options.digits));
      put(unit, view.toCome && view.rows.length > 0 ? `${widget.options.unit ?? ""} at ${clockWithSeconds(view.toCome.from * 1000)}` : (widget.options.unit ?? ""));
      const shown = own(widget, between(view.rows, view.from, view.to));
      const points = summed(widget, shown);
      const values = points.map((point) => point.value);
      put(range, values.length === 0 ? "" : `${figures.written(figures.folded(values, "min") ?? 0, widget.options.digits)} to ${figures.written(figures.folded(values, "max") ?? 0, widget.options.digits)} here`);
      const drawn = figures.sparkline(points, view.from, view.to, figures.holes(shown));
      path.setAttribute("d", drawn);
      ground.setAttribute("d", figures.groundOf(drawn));
      return { ...drawnOf(widget, now), data: [points.map(({ at }) => at), values] };
    };
  },

  gauge(widget, body) {
    const { min = 0, max = 100, warn, alert, unit = "", digits } = widget.options;
    /** @param {number} share */
    const at = (share) => `${(70 - 60 * Math.cos(Math.PI * share)).toFixed(2)} ${(70 - 60 * Math.sin(Math.PI * share)).toFixed(2)}`;
    /** @param {number} value */
    const share = (value) => Math.min(1, Math.max(0, (value - min) / (max - min)));
    const arc = svg("path", { class: "arc", d: "" });
    /** @param {number | undefined} limit @param {string} kind */
    const mark = (limit, kind) => {
      if (limit === undefined) return [];
      const angle = Math.PI * share(limit);
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      return [svg("path", { class: `mark ${kind}`, d: `M${70 - 50 * c} ${70 - 50 * s}L${70 - 70 * c} ${70 - 70 * s}` })];
    };
    const value = el("span", { "data-value": true }, "–");
    const limits = [warn === undefined ? "" : `warn at ${warn}`, alert === undefined ? "" : `alert at ${alert}`].filter((each) => each !== "");
    body.append(
      svg("svg", { class: "gauge", viewBox: "0 0 140 76", "aria-hidden": "true" }, svg("path", { class: "ground", d: `M${at(0)}A60 60 0 0 1 ${at(1)}` }), arc, ...mark(warn, "warn"), ...mark(alert, "alert")),
      el("p", { class: "num middle" }, value, el("small", {}, unit)),
      el("p", { class: "delta middle" }, limits.join(", ") || `${min} to ${max}`),
    );
    return (view) => {
      const now = valueNow(widget, view);
      put(value, now === null ? "–" : figures.written(now, digits));
      arc.setAttribute("d", now === null || share(now) === 0 ? "" : `M${at(0)}A60 60 0 0 1 ${at(share(now))}`);
      return drawnOf(widget, now);
    };
  },

  bar(widget, body) {
    const list = el("ul", { class: "bars" });
    body.append(list);
    let drawn = "";
    return (view) => {
      const { options, field } = widget;
      const counted = options.fold !== "newest";
      /** @type {[string, number][]} */
      const bars = counted
        ? figures.tally(options.round ? view.rows : view.rows.slice(firstFrom(view.rows, view.from)), widget)
        : view.state.map((row) => [String(figures.valueAt(row.data, options.label ?? "") ?? row.key), figures.numberAt(row, field) ?? 0]);
      if (drawn !== JSON.stringify(bars)) {
        drawn = JSON.stringify(bars);
        const most = Math.max(1, ...bars.map(([, value]) => value));
        list.replaceChildren(
          ...bars.slice(0, 12).map(([label, value]) =>
            el("li", {}, el("span", { class: "ell" }, label), svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: ((value / most) * 100).toFixed(1), height: 12 })), el("span", { class: "n" }, figures.written(value))),
          ),
          ...(bars.length === 0 ? [el("li", { class: "muted" }, "Nothing yet")] : []),
        );
      }
      return drawnOf(widget, bars.length === 0 ? null : Math.max(...bars.map(([, value]) => value)));
    };
  },

  table(widget, body) {
    /** @type {string[]} */
    const columns = widget.options.columns ?? [widget.field];
    const rows = el("tbody");
    const heads = ["key", ...columns].map((name) => el("th", { scope: "col" }, widget.options.labels?.[name] ?? name.replaceAll("_", " ")));
    body.append(el("div", { class: "table", tabindex: "0", role: "region", "aria-label": `${widget.title}, table` }, el("table", { class: "tbl" }, el("thead", {}, el("tr", {}, ...heads)), rows)));
    let drawn = "";
    return (view) => {
      const state = [...view.state].sort((a, b) => (String(a.key) < String(b.key) ? -1 : 1));
      const cells = state.map((row) => [String(row.key), silence(widget, view, row), ...columns.map((name) => cell(figures.valueAt(row.data, name)))]);
      if (drawn !== JSON.stringify(cells)) {
        drawn = JSON.stringify(cells);
        rows.replaceChildren(...cells.slice(0, ROWS_MOST).map(([key, silent, ...rest]) => el("tr", { class: silent && "old" }, el("th", { scope: "row" }, key, silent && el("small", {}, silent)), ...rest.map((text) => el("td", {}, text)))));
      }
      const values = widget.field === "" ? [] : state.map((row) => figures.numberAt(row, widget.field)).filter((value) => value !== null);
      return drawnOf(widget, figures.folded(values, widget.options.below ? "min" : "max"));
    };
  },

  feed(widget, body) {
    const list = el("ol", { class: "events", tabindex: "0", "aria-label": widget.title });
    body.append(list);
    let drawn = -1;
    return (view) => {
      const shown = own(widget, view.rows).slice(-FEED_MOST).reverse();
      const newest = shown[0]?.serial ?? 0;
      if (drawn !== newest) {
        drawn = newest;
        list.replaceChildren(
          ...shown.map((row) => {
            const label = widget.options.label ? figures.valueAt(row.data, widget.options.label) : undefined;
            const value = figures.valueAt(row.data, widget.field);
            return el("li", { "data-serial": String(row.serial) }, el("time", {}, clockWithSeconds(row.at * 1000)), el("span", {}, label === undefined ? null : el("b", {}, `${cell(label)} `), value === undefined ? (label === undefined ? row.event : "") : cell(value)));
          }),
          ...(shown.length === 0 ? [el("li", { class: "muted" }, "Nothing yet")] : []),
        );
      }
      return { level: "", words: shown.length === 0 ? "nothing yet" : cell(figures.valueAt(shown[0].data, widget.field)) };
    };
  },

  lights(widget, body) {
    const list = el("ul", { class: "lights" });
    body.append(list);
    let drawn = "";
    return (view) => {
      const lights = view.state.map((row) => /** @type {[string, string]} */ ([String(row.key), silence(widget, view, row) || String(figures.valueAt(row.data, widget.field))])).sort();
      if (drawn !== JSON.stringify(lights)) {
        drawn = JSON.stringify(lights);
        list.replaceChildren(
          ...lights.map(([key, state]) => {
            const [glyph, word] = LIGHTS[state] ?? [state.startsWith(SILENT) ? "offline" : "connecting", state];
            return el("li", {}, thread(glyph), el("span", {}, key), el("span", { class: "v" }, word));
          }),
          ...(lights.length === 0 ? [el("li", { class: "muted" }, "Nothing yet")] : []),
        );
      }
      const glyphs = lights.map(([, state]) => LIGHTS[state]?.[0]);
      const isSilent = lights.some(([, state]) => state.startsWith(SILENT));
      const level = isSilent || glyphs.includes("danger") ? "alert" : glyphs.includes("slow") ? "warn" : "";
      return { level, words: lights.map(([key, state]) => `${key} ${LIGHTS[state]?.[1] ?? state}`).join(", ") };
    };
  },
};

/** @param {Described} widget @param {View} view @param {Row} row */
function silence(widget, view, row) {
  const quiet = quietFor(widget, view, row);
  return quiet === null ? "" : `${SILENT}${span(Math.floor(quiet) * 1000)}`;
}

/** @param {unknown} value */
function cell(value) {
  if (value === undefined || value === null) return "–";
  if (typeof value === "number") return figures.written(value);
  return typeof value === "object" ? JSON.stringify(value).slice(0, 120) : String(value);
}

/**
 * What a widget shows over a long time, as a path in a box of 120 by 30; lines by key as their sum.
 *
 * @param {Described} widget
 * @param {readonly Row[]} rows
 * @param {number} from Unix seconds.
 * @param {number} to
 */
export function overview(widget, rows, from, to) {
  const { options } = widget;
  const shown = own(widget, between(rows, from, to));
  const points = summed({ ...widget, options: options.by_key ? { ...options, fold: "sum" } : options }, shown);
  return figures.sparkline(points, from, to, options.by_key ? [] : figures.holes(shown));
}

/** The points of a sparkline; for a sum over keys, the sum of what was newest at each moment. @param {Described} widget @param {readonly Row[]} rows */
function summed({ field, options }, rows) {
  /** @type {Map<string | null, { at: number, value: number }>} */
  const newest = new Map();
  /** @type {{ at: number, value: number }[]} */
  const points = [];
  for (const row of rows) {
    const value = figures.numberAt(row, field);
    if (value === null) continue;
    if (!options.fold || options.fold === "newest") {
      points.push({ at: row.at, value });
      continue;
    }
    newest.set(row.key, { at: row.at, value });
    const heard = [...newest.values()].filter((each) => !figures.isQuiet(row.at - each.at, options.quiet));
    points.push({ at: row.at, value: figures.folded(heard.map((each) => each.value), options.fold) ?? value });
  }
  return points;
}

/** @param {Described} widget @param {HTMLElement} body @param {HTMLElement} header @param {boolean} fill @returns {Draw} */
function chart(widget, body, header, fill) {
  const { options } = widget;
  const legend = el("p", { class: "leg" });
  const button = el("button", { class: "link small", type: "button", "aria-expanded": "false" }, "Show as table");
  header.append(legend, button);
  const box = el("div", { class: "plot", role: "img", "aria-label": `${widget.title}: nothing yet` });
  const rows = el("tbody");
  const head = el("tr");
  const table = el("div", { class: "table", tabindex: "0", role: "region", hidden: true, "aria-label": `${widget.title} as a table` }, el("table", { class: "tbl" }, el("thead", {}, head), rows));
  body.append(box, table);
  button.addEventListener("click", () => {
    table.hidden = !table.hidden;
    box.hidden = !table.hidden;
    put(button, table.hidden ? "Show as table" : "Show as chart");
    button.setAttribute("aria-expanded", String(!table.hidden));
    if (seen !== null) draw(seen);
  });
  const limits = [
    { value: options.warn, label: `warn at ${options.warn}`, colour: "--threshold-warn" },
    { value: options.alert, label: options.note || `alert at ${options.alert}`, colour: "--threshold-bad" },
  ].filter((each) => each.value !== undefined);
  const plot = new Chart(box, { format: (value) => figures.written(value, 0), least: options.least ?? 1, limits });
  let named = 0;
  let labelled = "";
  /** @type {View | null} */
  let seen = null;
  /** @type {Draw} */
  const draw = (view) => {
    seen = view;
    const shown = own(widget, between(view.rows, view.from, view.to));
    const { labels, data, holes } = figures.lines(shown, widget);
    if (labelled !== labels.join()) {
      labelled = labels.join();
      legend.replaceChildren(
        ...labels.map((label, index) => el("span", {}, svg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, svg("path", { class: `line-${index + 1}`, d: "M0 4H18" })), label, el("b"))),
      );
      head.replaceChildren(...["number", "time", ...labels].map((label) => el("th", { scope: "col" }, label)));
    }
    if (!box.hidden) {
      const lines = labels.map((label, index) => ({ label, colour: COLOURS[index], dash: DASHES[index], fill }));
      plot.draw({ data, lines, from: view.from, to: view.to, holes, toCome: view.toCome });
    } else {
      const fields = options.by_key ? labels.map(() => widget.field) : [widget.field, ...(options.more ?? [])];
      rows.replaceChildren(
        ...shown
          .slice(-ROWS_MOST)
          .reverse()
          .map((row) =>
            el("tr", {}, el("td", { class: "mono" }, `#${count(row.serial)}`), el("td", {}, clockWithSeconds(row.at * 1000)), ...fields.map((field, index) => el("td", {}, options.by_key && row.key !== labels[index] ? "" : cell(figures.valueAt(row.data, field))))),
          ),
      );
    }
    const last = data.slice(1).map((column) => column.findLast((value) => typeof value === "number") ?? null);
    legend.querySelectorAll("b").forEach((each, index) => put(each, last[index] === null ? "" : figures.written(Number(last[index]), options.digits)));
    const worst = figures.folded(last.filter((value) => value !== null), options.below ? "min" : "max");
    const drawn = { ...drawnOf(widget, worst), data };
    // An image whose name changes at every frame cannot be listened to.
    if (Date.now() - named > 10_000 && shown.length > 0) {
      named = Date.now();
      box.setAttribute("aria-label", `${widget.title}. ${labels.map((label, index) => `${label} ${withUnit(widget, last[index] ?? null)}`).join(", ")}.`);
    }
    return drawn;
  };
  return draw;
}
