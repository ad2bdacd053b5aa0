// The frames of a session, both ways, the newest last: bounded, counted, filtered, each told in a line. Pure.

import { size } from "../cursors/meter.js";
import { count, counted } from "../words.js";

/** How many frames are kept. The counts go on. */
export const KEPT_MOST = 5000;
const HALF_OF_ID = 4;

/** @typedef {"in" | "out"} Direction */
/**
 * @typedef {object} Row
 * @property {number} id
 * @property {number} at
 * @property {Direction | "break"} way
 * @property {string} type
 * @property {string} what
 * @property {number} bytes
 * @property {number | null} latencyMs
 * @property {any} frame The frame as an object; null where the text was none.
 * @property {string} text
 * @property {Made | null} [made] Of a message that came as a string: what it says.
 */
/** @typedef {{ data: any, bytes: number, fault: string }} Made Bytes of the data as JSON; `fault`: why there are none. */

const encoder = new TextEncoder();

export class FrameLog {
  /** @type {Row[]} */
  rows = [];
  counts = { in: 0, out: 0, bytesIn: 0, bytesOut: 0 };
  #nextId = 1;
  /** @type {Map<string | number, number>} When a request was sent, by its ref, on this connection. */
  #askedAt = new Map();
  #data;
  #hasDeltas = false;

  /** @param {import("../../seriatim/data-reader.js").DataReader} data What makes data of strings and differences: the SDK's. */
  constructor(data) {
    this.#data = data;
  }

  /**
   * @param {Direction} way
   * @param {string} text
   * @param {number} at
   */
  add(way, text, at) {
    const frame = parse(text);
    const bytes = encoder.encode(text).length;
    const ref = frame?.ref;
    let latencyMs = null;
    if (way === "out" && ref !== undefined) this.#askedAt.set(ref, at);
    else if (way === "in" && this.#askedAt.has(ref)) {
      latencyMs = at - Number(this.#askedAt.get(ref));
      this.#askedAt.delete(ref);
    } else if (way === "in" && frame?.type === "message") latencyMs = Math.max(0, at - frame.time);
    this.counts[way] += 1;
    this.counts[way === "in" ? "bytesIn" : "bytesOut"] += bytes;
    const made = way === "in" && frame !== null ? this.#make(frame) : null;
    const what = frame === null ? text.slice(0, 80) : summary(frame) + deltaWords(frame, made);
    return this.#push({ way, at, type: frame?.type ?? "text", what, bytes, latencyMs, frame, text, made });
  }

  /** What the data of a message are, where they came as a string. @param {any} frame @returns {Made | null} */
  #make(frame) {
    if (frame.type === "attached") {
      this.#hasDeltas = frame.delta !== undefined;
      this.#data.begin(frame.delta);
    } else if (frame.type === "skipped") this.#data.forget();
    if (frame.type !== "message" || !this.#hasDeltas) return null;
    try {
      const data = this.#data.read(frame);
      return { data, bytes: encoder.encode(JSON.stringify(data)).length, fault: "" };
    } catch (error) {
      return { data: null, bytes: 0, fault: error instanceof Error ? error.message : String(error) };
    }
  }

  /** A request over HTTP, or its answer. @param {Direction} way @param {string} type @param {string} what @param {string} text @param {number} at @param {number | null} [latencyMs] */
  addHttp(way, type, what, text, at, latencyMs = null) {
    const bytes = encoder.encode(text).length;
    this.counts[way] += 1;
    this.counts[way === "in" ? "bytesIn" : "bytesOut"] += bytes;
    return this.#push({ way, at, type, what, bytes, latencyMs, frame: parse(text), text });
  }

  /** What happened to the line, between the frames. Refs of the connection before mean nothing any more. @param {string} what @param {number} at */
  breakLine(what, at) {
    this.#askedAt.clear();
    return this.#push({ way: "break", at, type: "", what, bytes: 0, latencyMs: null, frame: null, text: "" });
  }

  clear() {
    this.rows = [];
    this.counts = { in: 0, out: 0, bytesIn: 0, bytesOut: 0 };
  }

  /** @param {Omit<Row, "id">} row @returns {Row} */
  #push(row) {
    const numbered = { id: this.#nextId++, ...row };
    this.rows.push(numbered);
    // In steps, so that a flood does not copy the whole list at each frame.
    if (this.rows.length > KEPT_MOST * 1.1) this.rows = this.rows.slice(-KEPT_MOST);
    return numbered;
  }
}

/** @param {string} text */
function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : null;
  } catch {
    return null;
  }
}

/**
 * Whether a row passes: words must all be found in its type or line; `#42` is a serial, `#42-50` a range. A break always
 * passes, since it says why there is nothing.
 *
 * @param {Row} row
 * @param {{ way: "all" | Direction, words: string }} filter
 */
export function passes(row, { way, words }) {
  if (row.way === "break") return true;
  if (way !== "all" && row.way !== way) return false;
  return words
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== "")
    .every((word) => {
      const range = /^#(\d+)(?:-(\d+))?$/.exec(word);
      if (range === null) return `${row.type} ${row.what}`.toLowerCase().includes(word);
      const [low, high] = [Number(range[1]), Number(range[2] ?? range[1])];
      return serialsOf(row.frame).some((serial) => serial >= low && serial <= high);
    });
}

/** @param {any} frame @returns {number[]} */
function serialsOf(frame) {
  if (frame === null) return [];
  const acked = typeof (frame.serials ?? frame.acks) === "object" ? Object.values(frame.serials ?? frame.acks) : [];
  return [frame.serial, ...acked].filter((each) => typeof each === "number");
}

/** @param {unknown} id */
const short = (id) => (typeof id === "string" && id.length > 12 ? `${id.slice(0, HALF_OF_ID)}…${id.slice(-HALF_OF_ID + 1)}` : String(id));

/** @param {any} from */
export function fromWords(from) {
  if (typeof from === "string") return from;
  if (from === null || typeof from !== "object") return "head";
  if ("serial" in from) return `${from.epoch}:${from.serial}`;
  const [[name, value]] = Object.entries(from);
  return `${name} ${value}`;
}

/** @param {any} acks */
const ackWords = (acks) =>
  Object.entries(acks)
    .map(([channel, serial]) => `${channel} ${serial}`)
    .join(", ");

/** What a delta saved, or that data came whole. @param {any} frame @param {Made | null} made */
function deltaWords(frame, made) {
  if (made === null) return "";
  if (made.fault !== "") return `, cannot be read: ${made.fault}`;
  if (frame.base === undefined) return ", whole";
  return `, ${size(encoder.encode(frame.data).length)} on #${count(frame.base)} for ${size(made.bytes)}`;
}

/** A frame in a line. @param {any} frame @returns {string} */
export function summary(frame) {
  const riding = frame.type !== "ack" && frame.acks ? `, acks ${ackWords(frame.acks)}` : "";
  switch (frame.type) {
    case "message":
      return `#${count(frame.serial)} ${frame.channel} from ${frame.client ?? "the server"}${frame.snapshot ? ", snapshot" : ""}`;
    case "attach":
      return `${frame.channel} from ${fromWords(frame.from)}${frame.window === undefined ? "" : ` window ${frame.window}`}${frame.delta === undefined ? "" : ` delta ${frame.delta}`}${riding}`;
    case "attached":
      return `serial ${frame.serial}, head ${frame.head}, ${frame.resumed ? "resumed" : "not resumed"}${frame.delta === undefined ? "" : ", as differences"}`;
    case "detach":
    case "detached":
      return `${frame.channel}${frame.reason ? `: ${frame.reason}` : ""}${riding}`;
    case "ack":
      return ackWords(frame.serials ?? {});
    case "publish":
      return `${frame.channel} ${counted(frame.messages?.length ?? 0, "message")} id ${short(frame.messages?.[0]?.id)}${riding}`;
    case "published": {
      const serials = frame.serials ?? [];
      const shown = serials.length > 3 ? `${serials[0]} to ${serials[serials.length - 1]}` : serials.join(", ");
      return `serials [${shown}]${frame.duplicates?.length ? `, ${counted(frame.duplicates.length, "duplicate")}` : ""}`;
    }
    case "skipped":
      return frame.from === null ? `another log: ${frame.reason}` : `#${count(frame.from)} to #${count(frame.to)}: ${frame.reason}`;
    case "history":
      return frame.messages === undefined ? `${frame.channel} limit ${frame.limit}${riding}` : `${counted(frame.messages.length, "message")}, head ${frame.head}`;
    case "signal":
      return `${frame.event}${frame.client ? ` from ${frame.client}` : ""} ${frame.channel}`;
    case "presence":
      return `${frame.action} ${frame.client ?? ""} ${frame.channel}`.replace(/\s+/g, " ");
    case "ready":
      return `worker ${frame.worker}, client ${frame.client ?? "nobody known"}`;
    case "error":
      return `${frame.code}: ${frame.message}`;
    case "reconnect":
      return `${frame.reason ?? ""} in ${frame.after_ms} ms`.trim();
    case "auth":
      return "a token";
    default:
      return riding.slice(2);
  }
}

/**
 * JSON in lines, in parts that are coloured by what they are. A token never shows: the frame list may be on a beamer.
 *
 * @param {any} frame
 * @returns {{ kind: "k" | "s" | "d" | "", text: string }[]}
 */
export function highlight(frame) {
  const text = JSON.stringify(frame, (name, value) => (name === "token" && typeof value === "string" ? "•••" : value), 2) ?? "";
  /** @type {{ kind: "k" | "s" | "d" | "", text: string }[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\b(?:true|false|null)\b/g)) {
    if (match.index > end) parts.push({ kind: "", text: text.slice(end, match.index) });
    const [whole, string, colon] = match;
    if (string === undefined) parts.push({ kind: "d", text: whole });
    else {
      parts.push({ kind: colon === undefined ? "s" : "k", text: string });
      if (colon !== undefined) parts.push({ kind: "", text: colon });
    }
    end = match.index + whole.length;
  }
  if (end < text.length) parts.push({ kind: "", text: text.slice(end) });
  return parts;
}
