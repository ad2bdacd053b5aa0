// How many tabs of one browser may keep a request open at the same server: over HTTP/1.1 a browser opens six connections
// to a host, for all tabs together, and with six streams no page loads any more. There are three places; a tab without
// one polls in short requests, and takes a place when one is free.
//
// A place is a row in `localStorage` with an owner and an end. Two tabs may take the same one in the same moment; the one
// that wrote last has it, and the other finds that out when it looks again.

import { strongRandom } from "./ids.js";

/** Half of the six connections that a browser opens to a host: pages, posts and short polls have the others. */
export const PLACES = 3;
/** How long a place is kept for a tab that says nothing: timers of hidden tabs may fire once in a minute. */
const LEASE_MS = 90_000;
/** How soon after taking a place a tab looks whether another one took it too, and then how often. */
const FIRST_LOOK_MS = 250;
const LOOK_MS = 5_000;
/** The pause between short polls, by which messages are late in a tab without a place. */
export const SHORT_PAUSE_MS = 2_000;

/** @typedef {import("./http-session.js").Carrier} Carrier */
/** @typedef {import("./http-session.js").Reading} Reading */
/** @typedef {import("./http-session.js").Wanted} Wanted */

/** The places at one server, as one socket sees them. */
export class TabPlaces {
  #storage;
  #host;
  #clock;
  #owner = String(strongRandom());
  /** @type {string | null} The key of our place. */
  #key = null;

  /**
   * @param {Storage | null} storage Null where no other tab shares our connections: then there is always a place.
   * @param {string} host
   * @param {import("./clock.js").Clock} clock
   */
  constructor(storage, host, clock) {
    this.#storage = storage;
    this.#host = host;
    this.#clock = clock;
  }

  /** Whether we have a place; takes one where one is free. */
  take() {
    if (this.#storage === null) return true;
    try {
      const now = this.#clock.now();
      if (this.#key !== null && this.#load(this.#key)?.owner === this.#owner) return this.#save(this.#key, now);
      for (let i = 0; i < PLACES; i++) {
        const key = `seriatim.place.${this.#host}.${i}`;
        const found = this.#load(key);
        // What ends later than it can has been written by a clock that was wrong.
        if (found === null || found.until <= now || found.until > now + LEASE_MS) return this.#save(key, now);
      }
      this.#key = null;
      return false;
    } catch {
      return true; // A full or forbidden storage: nobody can know.
    }
  }

  release() {
    try {
      if (this.#key !== null && this.#load(this.#key)?.owner === this.#owner) this.#storage?.removeItem(this.#key);
    } catch {
      // It ends by itself.
    }
    this.#key = null;
  }

  /** @param {string} key @returns {{ owner: string, until: number } | null} */
  #load(key) {
    try {
      const found = JSON.parse(this.#storage?.getItem(key) ?? "null");
      return typeof found?.owner === "string" && typeof found.until === "number" ? found : null;
    } catch (error) {
      if (error instanceof SyntaxError) return null;
      throw error;
    }
  }

  /** @param {string} key @param {number} now */
  #save(key, now) {
    this.#storage?.setItem(key, JSON.stringify({ owner: this.#owner, until: now + LEASE_MS }));
    this.#key = key;
    return true;
  }
}

/** Reads by one carrier while there is a place, and by another while there is none. @implements {Carrier} */
export class PlacedCarrier {
  #lasting;
  #short;
  #places;
  #clock;
  #isShort = false;
  #release = () => this.#places.release();

  /**
   * @param {Carrier} lasting
   * @param {Carrier} short
   * @param {TabPlaces} places
   * @param {import("./clock.js").Clock} clock
   */
  constructor(lasting, short, places, clock) {
    this.#lasting = lasting;
    this.#short = short;
    this.#places = places;
    this.#clock = clock;
    // A page that goes away, or into the cache of the browser's history, keeps nobody waiting.
    globalThis.addEventListener?.("pagehide", this.#release);
  }

  get transport() {
    return this.#isShort ? "short polling" : null;
  }

  /** @param {Wanted[]} wanted @param {string | null} token @param {Reading} reading */
  read(wanted, token, reading) {
    const hasPlace = this.#places.take();
    this.#isShort = !hasPlace;
    const request = (hasPlace ? this.#lasting : this.#short).read(wanted, token, reading);
    /** @type {unknown} */
    let timer = null;
    const look = () => {
      if (this.#places.take() !== hasPlace) return reading.onAgain();
      timer = this.#clock.setTimeout(look, hasPlace ? LOOK_MS : SHORT_PAUSE_MS);
    };
    timer = this.#clock.setTimeout(look, hasPlace ? FIRST_LOOK_MS : SHORT_PAUSE_MS);
    return {
      abort: () => {
        this.#clock.clearTimeout(timer);
        request.abort();
      },
    };
  }

  /** @param {string[]} frames @param {string | null} token @param {string} reader */
  post(frames, token, reader) {
    return this.#lasting.post(frames, token, reader);
  }

  close() {
    globalThis.removeEventListener?.("pagehide", this.#release);
    this.#release();
  }
}
