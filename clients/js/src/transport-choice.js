// Which transport carries the next connection, and when another is tried. Pure: time comes in as an argument.
//
// Only what a broken path looks like moves us on: a connection that never became ready, or one that was cut again and
// again after a short life. A close with a code of the server's own proves that the path works.

/** @typedef {import("./transport-websocket.js").Transport} Transport */

/**
 * Remembers between pages what worked here. Its methods may throw: nothing is remembered then.
 *
 * @typedef {object} TransportMemory
 * @property {() => string | null} load
 * @property {(value: string | null) => void} save
 */

/** Tries on a transport that has not worked here yet, and on one that has: a server may just be restarting. */
const TRIES_UNPROVEN = 2;
const TRIES_PROVEN = 4;
/** A connection that was cut before this old was probably cut by something between us and the server. */
const SHORT_LIFE_MS = 30_000;
/** So many short lives within so long: the path does not bear this transport. */
const SHORT_LIVES = 3;
const SHORT_LIVES_WITHIN_MS = 180_000;
/** How long what worked is used first. Networks change when people move. */
const REMEMBERED_MS = 3_600_000;
/** How soon a better transport is tried in the background, doubled after each failure up to the last. */
const UPGRADE_FIRST_MS = 60_000;
const UPGRADE_MOST_MS = 900_000;

export class TransportChoice {
  #transports;
  #memory;
  #index = 0;
  #failures = 0;
  /** @type {number[]} When connections ended that did not live long. */
  #shortLives = [];
  /** @type {Set<string>} Names of those that worked here. */
  #proven = new Set();
  #upgradeMs = UPGRADE_FIRST_MS;

  /**
   * @param {readonly Transport[]} transports The best first; at least one.
   * @param {TransportMemory | null} memory
   * @param {number} now
   */
  constructor(transports, memory, now) {
    if (transports.length === 0) throw new TypeError("Give at least one transport.");
    this.#transports = transports;
    this.#memory = memory;
    const remembered = this.#load();
    if (remembered === null || now >= remembered.until) return;
    this.#index = Math.max(0, transports.findIndex((transport) => transport.name === remembered.name));
  }

  get current() {
    return this.#transports[this.#index];
  }

  /** The transport to try in the background, and how long to wait before; null when the best is in use. */
  get upgrade() {
    if (this.#index === 0) return null;
    return { transport: this.#transports[0], waitMs: this.#upgradeMs };
  }

  /**
   * The current one became ready.
   *
   * @param {number} now
   */
  ready(now) {
    this.#failures = 0;
    this.#proven.add(this.current.name);
    const value = this.#index === 0 ? null : JSON.stringify({ name: this.current.name, until: now + REMEMBERED_MS });
    try {
      this.#memory?.save(value);
    } catch {
      // A full or forbidden storage: the choice is made anew with the next page.
    }
  }

  /**
   * A connection of the current one ended.
   *
   * @param {object} end
   * @param {boolean} end.isBroken Whether no close of the server's came: the line broke, or never stood.
   * @param {number | null} end.livedMs Since it was ready; null when it never was.
   * @param {boolean} [end.isTimeout] It stood, and nothing came: something holds back what the server sends.
   * @param {number} now
   * @returns {boolean} Whether the next try is with another transport.
   */
  ended({ isBroken, livedMs, isTimeout = false }, now) {
    if (!isBroken) {
      this.#failures = 0;
      return false;
    }
    if (livedMs !== null) {
      if (livedMs >= SHORT_LIFE_MS) return false;
      this.#shortLives = this.#shortLives.filter((at) => at > now - SHORT_LIVES_WITHIN_MS);
      this.#shortLives.push(now);
      return this.#shortLives.length >= SHORT_LIVES && this.#moveOn();
    }
    const isProven = this.#proven.has(this.current.name);
    this.#failures += isTimeout && !isProven ? TRIES_UNPROVEN : 1;
    return this.#failures >= (isProven ? TRIES_PROVEN : TRIES_UNPROVEN) && this.#moveOn();
  }

  /** The best transport works again: it carries the next connection. */
  upgraded() {
    this.#turnTo(0);
    this.#upgradeMs = UPGRADE_FIRST_MS;
  }

  /** The best transport still does not work. */
  notUpgraded() {
    this.#upgradeMs = Math.min(this.#upgradeMs * 2, UPGRADE_MOST_MS);
  }

  #moveOn() {
    if (this.#transports.length === 1) {
      this.#failures = 0;
      this.#shortLives = [];
      return false;
    }
    this.#turnTo((this.#index + 1) % this.#transports.length);
    return true;
  }

  /** @param {number} index */
  #turnTo(index) {
    this.#index = index;
    this.#failures = 0;
    this.#shortLives = [];
  }

  /** @returns {{ name: string, until: number } | null} */
  #load() {
    try {
      const value = JSON.parse(this.#memory?.load() ?? "null");
      return typeof value?.name === "string" && typeof value.until === "number" ? value : null;
    } catch {
      return null;
    }
  }
}

/** Remembers in `localStorage`, per site. @implements {TransportMemory} */
export class LocalTransportMemory {
  #storage;
  #key;

  /**
   * @param {Storage} [storage]
   * @param {string} [key]
   */
  constructor(storage = globalThis.localStorage, key = "seriatim.transport") {
    this.#storage = storage;
    this.#key = key;
  }

  load() {
    return this.#storage.getItem(this.#key);
  }

  /** @param {string | null} value */
  save(value) {
    if (value === null) this.#storage.removeItem(this.#key);
    else this.#storage.setItem(this.#key, value);
  }
}
