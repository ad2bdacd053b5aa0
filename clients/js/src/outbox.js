// What is to be published, until the server has answered that it is stored.
//
// Order. Each channel has a lane. Frames of a lane are sent without waiting for answers, but each behind another
// carries `chained`: when one fails, those behind it fail with `order` instead of overtaking it. A lane in which one
// failed halts until all that is in flight has been answered, waits as long as the server said, and starts again from
// its first message. When the line is lost everything unanswered is sent again, in the same order and with the same
// ids; what was stored already answers with its first serial.
//
//     waiting ──sent over the line──▶ pending ──published──▶ sent
//        ▲                               │
//        └── line lost, order, retry ────┴── refused for good ──▶ failed

import { SeriatimError } from "./errors.js";
import { Backoff } from "./backoff.js";
import { Timer } from "./clock.js";
import { checkMessage } from "./message.js";

/** @typedef {import("./clock.js").Clock} Clock */
/** @typedef {import("./storage.js").OutboxStorage} OutboxStorage */
/** @typedef {import("./storage.js").StoredMessage} StoredMessage */
/** @typedef {import("./frames.js").PublishedFrame} PublishedFrame */
/** @typedef {import("./frames.js").ErrorFrame} ErrorFrame */

/**
 * @typedef {object} Receipt
 * @property {string} id
 * @property {string} channel
 * @property {string} epoch
 * @property {number} serial
 * @property {boolean} duplicate It was stored before, by an earlier try or by another tab.
 * @property {boolean} conflict It was stored before with other data; the first stays.
 */

/**
 * A message on its way, as a page draws it.
 *
 * @typedef {object} OutboxEntry
 * @property {string} id
 * @property {string} channel
 * @property {string} event
 * @property {string | null} key
 * @property {any} data
 * @property {"pending" | "waiting" | "sent" | "failed"} state
 * @property {string | null} reason Why it waits: `connection`, `order` (one before it waits), `storage`, or the code of the
 *   refusal that is tried again.
 * @property {number | null} retryAt When it is sent again by itself.
 * @property {number} attempts How often it was sent.
 * @property {number} queuedAt
 * @property {SeriatimError | null} error Why it failed.
 * @property {Receipt | null} receipt
 */

/**
 * @typedef {object} OutboxLimits
 * @property {number} [maxMessages] Default 1000.
 * @property {number} [maxBytes] Default 4 MiB of data.
 * @property {number} [maxInFlight] Default 64.
 */

/**
 * @typedef {object} Item
 * @property {string} order
 * @property {OutboxEntry} entry
 * @property {string} text The JSON of `messages`.
 * @property {number} bytes Of the data.
 * @property {number} textBytes
 * @property {boolean} inFlight
 * @property {number} faults How often the server said `internal`.
 * @property {boolean} saved
 * @property {(receipt: Receipt) => void} resolve
 * @property {(error: SeriatimError) => void} reject
 */

/**
 * @typedef {object} Lane
 * @property {string} channel
 * @property {Item[]} items
 * @property {number} inFlight
 * @property {boolean} halted One failed; nothing is sent until everything in flight is answered.
 * @property {number} retryAt
 * @property {string | null} reason
 * @property {Backoff} backoff
 */

/** @typedef {(frame: Record<string, unknown>, onAnswer: (answer: any) => void, messages: string) => void} Send */

/** How often `internal` is tried again for one message before it counts as poison. */
const MOST_FAULTS = 5;
/** Room for everything in a publish frame but the message. */
const FRAME_ROOM_BYTES = 1024;

const encoder = new TextEncoder();

export class Outbox {
  #clock;
  #random;
  #makeOrder;
  #storage;
  #limits;
  #onEntry;
  #onError;
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  #count = 0;
  #bytes = 0;
  #inFlight = 0;
  /** @type {Send | null} */
  #send = null;
  #maxFrameBytes = Infinity;
  #timer;
  /** @type {string | null} Whose messages these are; null until it is known. */
  #owner = null;
  #loading = false;
  /** @type {(() => void)[]} */
  #onEmpty = [];

  /**
   * @param {object} options
   * @param {Clock} options.clock
   * @param {() => number} options.random
   * @param {() => string} options.makeOrder
   * @param {OutboxStorage | null} options.storage
   * @param {OutboxLimits} options.limits
   * @param {(entry: OutboxEntry) => void} options.onEntry
   * @param {(error: SeriatimError) => void} options.onError
   */
  constructor({ clock, random, makeOrder, storage, limits, onEntry, onError }) {
    this.#clock = clock;
    this.#random = random;
    this.#makeOrder = makeOrder;
    this.#storage = storage;
    this.#limits = { maxMessages: 1000, maxBytes: 4 * 1024 * 1024, maxInFlight: 64, ...limits };
    this.#onEntry = onEntry;
    this.#onError = onError;
    this.#timer = new Timer(clock, () => this.#fill());
  }

  /** How many messages are not stored yet. */
  get size() {
    return this.#count;
  }

  /** Messages that are not stored yet, oldest first. @returns {OutboxEntry[]} */
  get entries() {
    return [...this.#lanes.values()]
      .flatMap((lane) => lane.items)
      .sort((a, b) => (a.order < b.order ? -1 : 1))
      .map((item) => ({ ...item.entry }));
  }

  /** Resolves when everything queued is stored, refused or discarded. @returns {Promise<void>} */
  flush() {
    return this.#count === 0 ? Promise.resolve() : new Promise((resolve) => this.#onEmpty.push(resolve));
  }

  /**
   * Queues a message and sends it as soon as its turn comes.
   *
   * @param {string} channel
   * @param {{ id: string, event: string, key: string | null, data: unknown }} message
   * @returns {Promise<Receipt>}
   */
  add(channel, { id, event, key, data }) {
    let json;
    try {
      json = checkMessage({ id, event, key, data });
    } catch (error) {
      return Promise.reject(error);
    }
    const bytes = encoder.encode(json).length;
    if (this.#count >= this.#limits.maxMessages || this.#bytes + bytes > this.#limits.maxBytes) {
      return Promise.reject(
        new SeriatimError("outbox_full", `${this.#count} messages wait to be sent; there is no room for more`, {
          channel,
          remedy: "Wait until some are sent, or raise outbox.maxMessages and outbox.maxBytes.",
        }),
      );
    }
    const order = this.#makeOrder();
    const queuedAt = this.#clock.now();
    return new Promise((resolve, reject) => {
      const item = this.#item({ order, channel, id, event, key, data: json, queuedAt }, resolve, reject);
      this.#insert(item);
      this.#save(item);
      this.#explain(this.#lane(channel), item);
      this.#onEntry({ ...item.entry });
      this.#fill();
    });
  }

  /**
   * The line is up. Everything queued is sent in order.
   *
   * @param {Send} send
   * @param {number} maxFrameBytes
   */
  open(send, maxFrameBytes) {
    this.#send = send;
    this.#maxFrameBytes = maxFrameBytes;
    this.#fill();
    for (const lane of this.#lanes.values()) this.#redraw(lane);
  }

  /** The line is lost. What was in flight has an unknown outcome, so it waits to be sent again. */
  shut() {
    this.#send = null;
    this.#inFlight = 0;
    this.#timer.clear();
    for (const lane of this.#lanes.values()) {
      lane.inFlight = 0;
      lane.halted = false;
      for (const item of lane.items) item.inFlight = false;
      this.#redraw(lane);
    }
  }

  /**
   * Says whose messages these are. Those that another one wrote are put away: they stay in the storage of their owner,
   * and their promises reject, since sending them would put words into the wrong mouth.
   *
   * @param {string} owner
   */
  setOwner(owner) {
    if (owner === this.#owner) return;
    if (this.#owner !== null) {
      const error = new SeriatimError("identity");
      for (const item of this.#all()) this.#fail(item, error, false);
    }
    const adopted = this.#all();
    this.#owner = owner;
    const storage = this.#storage;
    if (!storage) return;
    for (const item of adopted) this.#save(item);
    this.#loading = true;
    storage
      .load(owner)
      .then((stored) => {
        if (this.#owner === owner) this.#restore(stored);
      })
      .catch((cause) => this.#onError(new SeriatimError("storage", undefined, { cause })))
      .finally(() => {
        if (this.#owner !== owner) return;
        this.#loading = false;
        this.#fill();
      });
  }

  /**
   * Sends what waits for a pause to end now.
   *
   * @param {string} id
   * @returns {boolean} Whether it was waiting here.
   */
  retry(id) {
    const item = this.#find(id);
    if (!item || item.inFlight) return false;
    const lane = this.#lane(item.entry.channel);
    lane.retryAt = 0;
    lane.reason = null;
    this.#fill();
    return true;
  }

  /**
   * Takes back a message that is not on its way. Its promise rejects with `discarded`. One with `attempts` above 0 was
   * sent before and may be stored all the same.
   *
   * @param {string} id
   * @returns {boolean} False when it is on its way or not here.
   */
  discard(id) {
    const item = this.#find(id);
    if (!item || item.inFlight) return false;
    this.#fail(item, new SeriatimError("discarded", undefined, { channel: item.entry.channel }));
    this.#fill();
    return true;
  }

  /**
   * Gives up on everything: promises reject, storage keeps the messages.
   *
   * @param {SeriatimError} error
   */
  abandon(error) {
    this.shut();
    for (const item of this.#all()) this.#fail(item, error, false);
  }

  #all() {
    return [...this.#lanes.values()].flatMap((lane) => lane.items);
  }

  /** @param {string} id */
  #find(id) {
    return this.#all().find((item) => item.entry.id === id);
  }

  /** @param {string} channel @returns {Lane} */
  #lane(channel) {
    let lane = this.#lanes.get(channel);
    if (!lane) {
      const backoff = new Backoff({ firstMs: 500, capMs: 16000 }, this.#random);
      lane = { channel, items: [], inFlight: 0, halted: false, retryAt: 0, reason: null, backoff };
      this.#lanes.set(channel, lane);
    }
    return lane;
  }

  /**
   * @param {StoredMessage} stored
   * @param {(receipt: Receipt) => void} resolve
   * @param {(error: SeriatimError) => void} reject
   * @returns {Item}
   */
  #item(stored, resolve, reject) {
    const { order, channel, id, event, key, data, queuedAt } = stored;
    const rest = key === null ? "" : `,"key":${JSON.stringify(key)}`;
    const text = `[{"id":${JSON.stringify(id)},"event":${JSON.stringify(event)}${rest},"data":${data}}]`;
    return {
      order,
      entry: {
        id,
        channel,
        event,
        key,
        data: JSON.parse(data),
        state: "waiting",
        reason: null,
        retryAt: null,
        attempts: 0,
        queuedAt,
        error: null,
        receipt: null,
      },
      text,
      bytes: encoder.encode(data).length,
      textBytes: encoder.encode(text).length,
      inFlight: false,
      faults: 0,
      saved: false,
      resolve,
      reject,
    };
  }

  /** @param {Item} item */
  #insert(item) {
    const { items } = this.#lane(item.entry.channel);
    let at = items.length;
    // What was found on the device is older than what was queued meanwhile; but nothing goes before what is on its way.
    while (at > 0 && items[at - 1].order > item.order && !items[at - 1].inFlight) at -= 1;
    items.splice(at, 0, item);
    this.#count += 1;
    this.#bytes += item.bytes;
  }

  /** @param {Item} item */
  #remove(item) {
    const lane = this.#lane(item.entry.channel);
    const at = lane.items.indexOf(item);
    if (at < 0) return;
    lane.items.splice(at, 1);
    this.#count -= 1;
    this.#bytes -= item.bytes;
    if (lane.items.length === 0 && lane.retryAt === 0 && !lane.halted) this.#lanes.delete(lane.channel);
    if (this.#count === 0) for (const resolve of this.#onEmpty.splice(0)) resolve();
  }

  /** @param {Item} item */
  #save(item) {
    if (!this.#storage || this.#owner === null || item.saved) return;
    item.saved = true;
    const { id, channel, event, key, data, queuedAt } = item.entry;
    const stored = { order: item.order, channel, id, event, key, data: JSON.stringify(data), queuedAt };
    this.#storage.save(this.#owner, stored).catch((cause) => {
      this.#onError(new SeriatimError("storage", undefined, { channel, cause }));
    });
  }

  /** @param {Item} item */
  #unsave(item) {
    if (!this.#storage || this.#owner === null || !item.saved) return;
    this.#storage.remove(this.#owner, item.order).catch((cause) => {
      this.#onError(new SeriatimError("storage", undefined, { channel: item.entry.channel, cause }));
    });
  }

  /** @param {StoredMessage[]} stored */
  #restore(stored) {
    const known = new Set(this.#all().map((item) => item.order));
    // A storage gives its rows in an order of its own; a page draws them as it is told of them.
    for (const message of [...stored].sort((a, b) => (a.order < b.order ? -1 : 1))) {
      if (known.has(message.order)) continue;
      let item;
      try {
        item = this.#item(
          message,
          () => {},
          () => {},
        );
      } catch (cause) {
        this.#onError(new SeriatimError("storage", "a stored message cannot be read", { cause }));
        continue;
      }
      item.saved = true;
      this.#insert(item);
      this.#explain(this.#lane(message.channel), item);
      this.#onEntry({ ...item.entry });
    }
  }

  /** Sends what may be sent: lanes take turns, so that a long one does not hold up the others. */
  #fill() {
    const send = this.#send;
    if (!send || this.#loading) return;
    const now = this.#clock.now();
    let nextAt = Infinity;
    let sent = true;
    while (sent && this.#inFlight < this.#limits.maxInFlight) {
      sent = false;
      for (const lane of [...this.#lanes.values()]) {
        if (lane.halted || this.#inFlight >= this.#limits.maxInFlight) continue;
        if (lane.retryAt > now) {
          nextAt = Math.min(nextAt, lane.retryAt);
          continue;
        }
        lane.retryAt = 0;
        lane.reason = null;
        const item = lane.items[lane.inFlight];
        if (!item) {
          if (lane.items.length === 0) this.#lanes.delete(lane.channel);
          continue;
        }
        sent = true;
        this.#sendOne(lane, item, send);
        if (this.#send !== send) return;
      }
    }
    if (nextAt < Infinity) this.#timer.set(nextAt - now);
  }

  /** @param {Lane} lane @param {Item} item @param {Send} send */
  #sendOne(lane, item, send) {
    if (item.textBytes + FRAME_ROOM_BYTES > this.#maxFrameBytes) {
      // The server would close the connection, and every later one that tries.
      this.#fail(
        item,
        new SeriatimError("too_large", undefined, { channel: lane.channel, remedy: "Send less at once." }),
      );
      return;
    }
    /** @type {Record<string, unknown>} */
    const frame = { type: "publish", channel: lane.channel };
    if (lane.inFlight > 0) frame.chained = true;
    item.inFlight = true;
    lane.inFlight += 1;
    this.#inFlight += 1;
    item.entry.attempts += 1;
    // First the wire, then the page: a listener may publish, and must not get before this one.
    send(frame, (answer) => this.#answered(lane, item, answer), item.text);
    this.#draw(item, "pending", null, null);
  }

  /** @param {Lane} lane @param {Item} item @param {PublishedFrame | ErrorFrame} answer */
  #answered(lane, item, answer) {
    if (!item.inFlight) return;
    item.inFlight = false;
    lane.inFlight -= 1;
    this.#inFlight -= 1;
    if (answer.type === "published") this.#stored(lane, item, answer);
    else this.#refused(lane, item, SeriatimError.fromFrame(answer, lane.channel));
    if (lane.halted && lane.inFlight === 0) {
      lane.halted = false;
      this.#redraw(lane);
      if (lane.items.length === 0) this.#lanes.delete(lane.channel);
    }
    this.#fill();
  }

  /** @param {Lane} lane @param {Item} item @param {PublishedFrame} answer */
  #stored(lane, item, answer) {
    lane.backoff.reset();
    const receipt = {
      id: item.entry.id,
      channel: lane.channel,
      epoch: answer.epoch,
      serial: answer.serials[0],
      duplicate: (answer.duplicates?.length ?? 0) > 0,
      conflict: (answer.conflicts?.length ?? 0) > 0,
    };
    this.#unsave(item);
    this.#remove(item);
    item.entry.receipt = receipt;
    this.#draw(item, "sent", null, null);
    item.resolve(receipt);
  }

  /** @param {Lane} lane @param {Item} item @param {SeriatimError} error */
  #refused(lane, item, error) {
    lane.halted = true;
    if (error.code === "order") return;
    if (error.code === "internal") item.faults += 1;
    // `unauthorized` is about the connection: the close behind it decides, and the message waits for the next one.
    const again = error.code === "unauthorized" || (error.retry && item.faults < MOST_FAULTS);
    if (!again) {
      this.#fail(item, error);
      return;
    }
    lane.reason = error.code;
    lane.retryAt = this.#clock.now() + (error.retryAfterMs ?? lane.backoff.nextMs());
  }

  /** @param {Item} item @param {SeriatimError} error @param {boolean} [unsave] */
  #fail(item, error, unsave = true) {
    if (unsave) this.#unsave(item);
    this.#remove(item);
    item.entry.error = error;
    this.#draw(item, "failed", error.code, null);
    item.reject(error);
  }

  /** Says anew why each message of a lane waits. @param {Lane} lane */
  #redraw(lane) {
    for (const item of [...lane.items])
      if (!item.inFlight && this.#explain(lane, item)) this.#onEntry({ ...item.entry });
  }

  /** Gives whether the page has to draw it anew. @param {Lane} lane @param {Item} item */
  #explain(lane, item) {
    const isFirst = lane.items[0] === item;
    const reason = !this.#send ? "connection" : !isFirst ? "order" : this.#loading ? "storage" : lane.reason;
    const retryAt = this.#send && isFirst && lane.retryAt > 0 ? lane.retryAt : null;
    const { entry } = item;
    const changed = entry.state !== "waiting" || entry.reason !== reason || entry.retryAt !== retryAt;
    Object.assign(entry, { state: "waiting", reason, retryAt });
    return changed;
  }

  /**
   * @param {Item} item
   * @param {OutboxEntry["state"]} state
   * @param {string | null} reason
   * @param {number | null} retryAt
   */
  #draw(item, state, reason, retryAt) {
    Object.assign(item.entry, { state, reason, retryAt });
    this.#onEntry({ ...item.entry });
  }
}
