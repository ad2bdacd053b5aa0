// The transports for where WebSockets do not get through: a response that is read as it comes, Server-Sent Events, and
// long polling; posts go beside it (docs/reference/protocol.md, "Without WebSockets"). What makes a socket of them is
// http-session.js.

import { systemClock } from "./clock.js";
import { HttpSession } from "./http-session.js";
import { isPosition } from "./position.js";
import { PlacedCarrier, SHORT_PAUSE_MS, TabPlaces } from "./tab-places.js";
import { WebSocketTransport } from "./transport-websocket.js";

/** @typedef {import("./http-session.js").Carrier} Carrier */
/** @typedef {import("./http-session.js").Failure} Failure */
/** @typedef {import("./http-session.js").Reading} Reading */
/** @typedef {import("./http-session.js").Wanted} Wanted */
/** @typedef {import("./transport-websocket.js").Transport} Transport */
/** @typedef {import("./transport-websocket.js").TransportTarget} TransportTarget */
/** @typedef {import("./transport-websocket.js").WebSocketConstructor} WebSocketConstructor */

/**
 * @typedef {object} HttpOptions
 * @property {string} [api] Address of the REST interface. Default "/api/v1"; relative to the page.
 * @property {typeof fetch} [fetch] Default: the global one.
 * @property {() => Record<string, string>} [headers] More for every request: the CSRF token, where the cookie says who
 *   we are.
 * @property {import("./clock.js").Clock} [clock]
 * @property {new (url: string, options?: { withCredentials?: boolean }) => EventSource} [EventSource] Default: the
 *   global one.
 * @property {Storage | null} [places] By which the tabs of a browser share its connections. Default: `localStorage`,
 *   where there is one.
 */

/** How long a poll may wait for news; the server may wait for less. */
const POLL_WAIT_MS = 25_000;
/** A poll that is not answered this long after it should have been is lost. */
const POLL_GRACE_MS = 15_000;
/** A proxy may hold a response back: what a stream sends at once must be here within this. */
const FIRST_LINE_MS = 8_000;

/** What the three have in common: their requests, and the posts. */
class Requests {
  /** @param {HttpOptions} options */
  constructor({ api = "/api/v1", fetch: fetcher = globalThis.fetch, headers, clock = systemClock } = {}) {
    if (typeof fetcher !== "function") throw new TypeError("There is no global fetch here: pass one.");
    this.api = api;
    this.fetch = fetcher.bind(globalThis);
    this.headers = headers ?? (() => ({}));
    this.clock = clock;
  }

  /**
   * @param {string} path @param {string | null} token @param {string} body @param {string} type
   * @param {AbortSignal} [signal]
   */
  async request(path, token, body, type, signal) {
    /** @type {Record<string, string>} */
    const headers = { ...this.headers(), "content-type": type };
    if (token !== null) headers.authorization = `Bearer ${token}`;
    let response;
    try {
      response = await this.fetch(this.api + path, { method: "POST", headers, body, signal, cache: "no-store" });
    } catch {
      throw NO_ANSWER;
    }
    if (!response.ok) throw await failureOf(response);
    return response;
  }

  /** @param {string[]} frames @param {string | null} token @param {string} reader */
  async post(frames, token, reader) {
    const response = await this.request(`/frames?reader=${reader}`, token, `${frames.join("\n")}\n`, "application/x-ndjson");
    try {
      return (await response.text()).split("\n").filter((line) => line !== "");
    } catch {
      throw NO_ANSWER;
    }
  }
}

/** @type {Failure} */
const NO_ANSWER = { status: null, error: null };

/** @param {Response} response @returns {Promise<Failure>} */
async function failureOf(response) {
  let error = null;
  try {
    error = (await response.json()).error ?? null;
  } catch {
    // Not ours: something between us and the server answered.
  }
  const seconds = Number(response.headers.get("retry-after"));
  if (error === null && seconds > 0) error = { retry_after_ms: seconds * 1000 };
  return { status: response.status, error };
}

/** A request that reads as the response comes. @implements {Carrier} */
class Streaming extends Requests {
  /** @param {Wanted[]} wanted @param {string | null} token @param {Reading} reading */
  read(wanted, token, { onOpen, onLine, onEnd }) {
    const abort = new AbortController();
    let ended = false;
    /** @param {Failure | null} failure */
    const end = (failure) => {
      if (ended) return;
      ended = true;
      abort.abort();
      onEnd(failure);
    };
    // A proxy that holds back the response gives nothing; the line of a healthy one comes with the headers.
    const watch = this.clock.setTimeout(() => end(NO_ANSWER), FIRST_LINE_MS);
    void (async () => {
      try {
        const body = JSON.stringify({ attach: wanted });
        const response = await this.request("/stream", token, body, "application/json", abort.signal);
        const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
        const decoder = new TextDecoder();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (ended) return;
          if (done) return end(null);
          this.clock.clearTimeout(watch);
          onOpen();
          const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
          rest = lines.pop() ?? "";
          for (const line of lines) if (!ended && line !== "") onLine(line);
        }
      } catch (failure) {
        // A line that broke while it was read throws an error of the browser's.
        end(isFailure(failure) ? failure : null);
      } finally {
        this.clock.clearTimeout(watch);
      }
    })();
    return {
      abort() {
        ended = true;
        abort.abort();
      },
    };
  }
}

/** The browser's EventSource, by a ticket, since it sends no headers. @implements {Carrier} */
class Events extends Requests {
  /** @param {HttpOptions} options */
  constructor(options = {}) {
    super(options);
    this.EventSource = options.EventSource ?? globalThis.EventSource;
    if (typeof this.EventSource !== "function") throw new TypeError("There is no global EventSource here: pass one.");
  }

  /** @param {Wanted[]} wanted @param {string | null} token @param {Reading} reading */
  read(wanted, token, { onOpen, onLine, onEnd }) {
    /** @type {EventSource | null} */
    let source = null;
    let ended = false;
    const stop = () => {
      ended = true;
      this.clock.clearTimeout(watch);
      source?.close();
    };
    /** @param {Failure | null} failure */
    const end = (failure) => {
      if (ended) return;
      stop();
      onEnd(failure);
    };
    const watch = this.clock.setTimeout(() => end(NO_ANSWER), FIRST_LINE_MS);
    void (async () => {
      let url;
      try {
        const response = await this.request("/tickets", token, JSON.stringify({ attach: wanted }), "application/json");
        url = (await response.json()).url;
      } catch (failure) {
        return end(isFailure(failure) ? failure : NO_ANSWER);
      }
      if (ended) return;
      source = new this.EventSource(new URL(url, new URL(this.api, globalThis.location?.href)).href);
      /** @param {MessageEvent} event */
      const line = (event) => {
        if (ended) return;
        this.clock.clearTimeout(watch);
        onOpen();
        onLine(event.data);
      };
      for (const type of EVENT_TYPES) source.addEventListener(type, line);
      // It would come back by itself, and tell the frames of attaching anew: the session does that, from its positions.
      source.onerror = () => end(null);
    })();
    return { abort: stop };
  }
}

const EVENT_TYPES = [
  "ready",
  "ok",
  "attached",
  "detached",
  "message",
  "skipped",
  "snapshot.end",
  "signal",
  "presence",
  "refused",
  "reconnect",
  "close",
];

/** One request after the other, each answered when there is news. @implements {Carrier} */
class Polling extends Requests {
  /** Between two polls, which then wait for no news. */
  pauseMs = 0;

  /** @param {Wanted[]} wanted @param {string | null} token @param {Reading} reading */
  read(wanted, token, { onOpen, onLine, onEnd }) {
    const abort = new AbortController();
    let ended = false;
    /** @type {unknown} */
    let timer = null;
    /** @param {number} ms */
    const pause = (ms) =>
      new Promise((resolve) => {
        timer = this.clock.setTimeout(() => resolve(undefined), ms);
      });
    const stop = () => {
      ended = true;
      this.clock.clearTimeout(timer);
      abort.abort();
    };
    void (async () => {
      let attach = wanted;
      let isFirst = true;
      try {
        while (!ended) {
          timer = this.clock.setTimeout(() => abort.abort(), POLL_WAIT_MS + POLL_GRACE_MS);
          // The first is to say that all are attached, the others wait for news.
          const body = JSON.stringify({ attach, wait_ms: isFirst || this.pauseMs > 0 ? 0 : POLL_WAIT_MS });
          const response = await this.request("/poll", token, body, "application/json", abort.signal);
          const { frames, positions, poll_after_ms: afterMs } = await response.json();
          this.clock.clearTimeout(timer);
          if (ended) return;
          onOpen();
          const told = isFirst ? attachedAtPositions(wanted, frames) : [];
          isFirst = false;
          for (const frame of [...told, ...frames]) if (!ended) onLine(JSON.stringify(frame));
          if (ended) return;
          // An empty poll is as good as a heartbeat: it shows that the line is well.
          if (frames.length === 0) onLine('{"type":"heartbeat"}');
          attach = attach.map((entry) => knownIn(frames, { ...entry, from: positions[entry.channel] ?? entry.from }));
          const pauseMs = attach.length === 0 ? POLL_WAIT_MS : Math.max(afterMs, this.pauseMs);
          if (pauseMs > 0) await pause(pauseMs);
        }
      } catch (failure) {
        if (ended) return;
        stop();
        onEnd(isFailure(failure) ? failure : NO_ANSWER);
      }
    })();
    return { abort: stop };
  }
}

/**
 * That a channel is attached where it was to be goes without saying in the answer to a poll; over a socket it is said.
 *
 * @param {Wanted[]} wanted
 * @param {any[]} frames
 */
function attachedAtPositions(wanted, frames) {
  const told = [];
  for (const { channel, from } of wanted) {
    const own = frames.filter((frame) => frame.channel === channel);
    if (!isPosition(from) || own.some(({ type }) => type === "attached" || type === "error")) continue;
    const head = own.reduce((last, { serial }) => Math.max(last, serial ?? 0), from.serial);
    told.push({ type: "attached", channel, ...from, head, resumed: true, window: 0, ack_every: 0, ack_ms: 0 });
  }
  return told;
}

/**
 * The entry with what an answer tells of it: that it has entered, and whom it has been told of.
 *
 * @param {any[]} frames
 * @param {Wanted} entry
 * @returns {Wanted}
 */
function knownIn(frames, entry) {
  const known = { ...entry };
  for (const { type, channel, action, at, mark } of frames) {
    if (channel !== entry.channel) continue;
    if (type === "presence" && mark !== undefined && entry.presence) known.presence = mark;
    if (type === "ok" && action === "enter" && entry.enter !== undefined) known.enter = { ...entry.enter, at };
  }
  return known;
}

/** @param {unknown} value @returns {value is Failure} */
function isFailure(value) {
  return typeof value === "object" && value !== null && "status" in value && "error" in value;
}

const CARRIERS = { streaming: Streaming, sse: Events, polling: Polling };

/** What the tabs of this browser share; null in Node, and where a page may not store anything. */
function ownStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}

/** @implements {Transport} */
export class HttpTransport {
  #options;
  #clock;

  /**
   * @param {"streaming" | "sse" | "polling"} name
   * @param {HttpOptions} [options]
   */
  constructor(name, options = {}) {
    this.name = name;
    this.#clock = options.clock ?? systemClock;
    this.#options = options;
    // Whether it can work here is found out now.
    void new CARRIERS[name](options);
  }

  /** @param {TransportTarget} target */
  open(target) {
    const lasting = new CARRIERS[this.name](this.#options);
    const short = new Polling(this.#options);
    short.pauseMs = SHORT_PAUSE_MS;
    const { places = ownStorage() } = this.#options;
    const { host } = new URL(lasting.api, globalThis.location?.href ?? "http://localhost");
    const carrier = new PlacedCarrier(lasting, short, new TabPlaces(places, host, this.#clock), this.#clock);
    return new HttpSession({ carrier, clock: this.#clock, target });
  }
}

/**
 * Every transport that can work here, the best first: for `new Client({ transports: allTransports() })`.
 *
 * @param {HttpOptions & { WebSocket?: WebSocketConstructor }} [options]
 * @returns {Transport[]}
 */
export function allTransports(options = {}) {
  /** @type {Transport[]} */
  const found = [];
  const Socket = options.WebSocket ?? globalThis.WebSocket;
  if (typeof Socket === "function") found.push(new WebSocketTransport(Socket));
  if (typeof (options.fetch ?? globalThis.fetch) === "function") {
    found.push(new HttpTransport("streaming", options));
    if (typeof (options.EventSource ?? globalThis.EventSource) === "function") found.push(new HttpTransport("sse", options));
    found.push(new HttpTransport("polling", options));
  }
  return found;
}
