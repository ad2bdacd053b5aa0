// What a room's log comes to: messages with their edits, deletions, reactions and replies, and who has seen what. Pure.
//
// The server folds the same way (chat/fold.py); tests/vectors/chat_fold.json binds both. Every message has a state
// *through* some serial; what the log says about it behind that serial is applied on top, in the order of the log,
// whatever the order in which it was learnt. So pages may come in any order and cut anywhere, and states that the server
// has folded (`seed`) mix with the log itself. What is not valid is ignored: the server refused it where it came in.

/** @typedef {import("../../seriatim/frames.js").MessageFrame} MessageFrame */
/** @typedef {Pick<MessageFrame, "serial" | "id" | "client" | "time" | "event" | "data">} Envelope */
/** @typedef {{ emoji: string, clients: string[] }} Reaction */
/** @typedef {{ id: string, name: string, type: string, size: number, width?: number, height?: number }} FileInfo */
/** @typedef {{ serial: number, time: number, event: string, data: any }} Notice */

/**
 * @typedef {object} Folded A message as it stands. A new object whenever it changes.
 * @property {number} serial
 * @property {string} id
 * @property {string} client
 * @property {number} time
 * @property {string} text
 * @property {number | null} edited
 * @property {string | null} deleted "author", or the moderator's client id.
 * @property {Reaction[]} reactions In the order of their first use.
 * @property {number | null} thread Serial of the thread's first message.
 * @property {boolean} also A reply that is shown in the room too.
 * @property {{ count: number, last: number | null, clients: string[] }} replies
 * @property {string[]} mentions
 * @property {FileInfo[]} files
 */

/**
 * @typedef {object} Entry
 * @property {Folded | null} state Null: only events about it were met so far.
 * @property {number} through
 * @property {Map<number, Envelope>} events
 * @property {Folded | null} shown The state with its events, until another event comes.
 */

const TEXT_CHARS = 4000;
const MENTIONS_MOST = 50;
const FILES_MOST = 10;
const CLIENT_CHARS = 128;
/** Of a file's id, name and type each. */
const FILE_CHARS = 200;
const EMOJI_CHARS = 16;
/** Different emoji on one message at a time. */
const EMOJI_MOST = 20;
/** Clients named beside the count of replies: the first ones. */
const REPLIERS_MOST = 5;
const MEMBER_ACTIONS = new Set(["joined", "left", "invited", "removed", "muted", "unmuted", "role"]);

/** The folded state of one room's log, as far as it was given. One epoch only: serials of another are other ones. */
export class Fold {
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  /** @type {Map<number, Notice>} */
  #notices = new Map();
  /** @type {Map<string, number>} */
  #receipts = new Map();
  /** @type {number[] | null} Serials of messages in order; null: to be sorted anew. */
  #order = [];

  /** One message of the log, once or more often, in any order. @param {Envelope} envelope */
  add(envelope) {
    const { event } = envelope;
    if (event === "message") {
      const state = begin(envelope);
      if (state === null) return;
      this.seed(state, state.serial);
      if (state.thread !== null) this.#happened(state.thread, envelope);
    } else if (event === "edit" || event === "delete" || event === "react") {
      const of = target(envelope);
      if (of !== null) this.#happened(of, envelope);
    } else if (event === "receipt") {
      const { client, data } = envelope;
      const through = isObject(data) ? data.through : null;
      if (typeof client === "string" && isWhole(through) && through >= 1 && through < envelope.serial) this.saw(client, through);
    } else if (event === "member" || event === "room") {
      const notice = noticeOf(envelope);
      if (notice !== null) this.note(notice);
    }
  }

  /** A message as somebody folded it from everything up to the serial `through`. @param {Folded} state @param {number} through */
  seed(state, through) {
    const entry = this.#entry(state.serial);
    if (entry.state !== null && through <= entry.through) return;
    if (entry.state === null) this.#insert(state.serial);
    entry.state = state;
    entry.through = through;
    entry.shown = null;
    for (const serial of entry.events.keys()) if (serial <= through) entry.events.delete(serial);
  }

  /** @param {Notice} notice As another fold had it. */
  note(notice) {
    this.#notices.set(notice.serial, notice);
  }

  /** @param {string} client @param {number} through It has seen everything up to there. */
  saw(client, through) {
    this.#receipts.set(client, Math.max(through, this.#receipts.get(client) ?? 0));
  }

  /** All messages whose beginning is known, by serial. @returns {Folded[]} */
  messages() {
    this.#order ??= [...this.#entries].filter(([, entry]) => entry.state !== null).map(([serial]) => serial).sort((a, b) => a - b);
    return this.#order.map((serial) => /** @type {Folded} */ (this.get(serial)));
  }

  /** One message as it stands; null while its beginning is not known. @param {number} serial */
  get(serial) {
    const entry = this.#entries.get(serial);
    if (!entry?.state) return null;
    if (entry.shown !== null) return entry.shown;
    if (entry.events.size === 0) return (entry.shown = entry.state);
    const state = structuredClone(entry.state);
    for (const at of [...entry.events.keys()].sort((a, b) => a - b)) apply(state, /** @type {Envelope} */ (entry.events.get(at)));
    return (entry.shown = state);
  }

  /**
   * Forgets messages before `serial`, to be learnt from the log again. What the log said about them is kept, and so are
   * those that came folded: both cannot be had again with the message.
   *
   * @param {number} serial
   */
  dropBefore(serial) {
    for (const [at, entry] of this.#entries) {
      if (at >= serial || entry.state === null || entry.through > at) continue;
      if (entry.events.size === 0) this.#entries.delete(at);
      else Object.assign(entry, { state: null, through: 0, shown: null });
    }
    for (const at of this.#notices.keys()) if (at < serial) this.#notices.delete(at);
    this.#order = null;
  }

  /** What happened to the room and its members, by serial. */
  notices() {
    return [...this.#notices.values()].sort((a, b) => a.serial - b.serial);
  }

  /** Through which serial each client has seen the room. @returns {ReadonlyMap<string, number>} */
  get receipts() {
    return this.#receipts;
  }

  /** @param {number} serial @returns {Entry} */
  #entry(serial) {
    let entry = this.#entries.get(serial);
    if (!entry) this.#entries.set(serial, (entry = { state: null, through: 0, events: new Map(), shown: null }));
    return entry;
  }

  /** @param {number} serial */
  #insert(serial) {
    if (this.#order === null) return;
    if (this.#order.length === 0 || serial > this.#order[this.#order.length - 1]) this.#order.push(serial);
    else this.#order = null;
  }

  /** @param {number} of @param {Envelope} envelope */
  #happened(of, envelope) {
    const entry = this.#entry(of);
    if (envelope.serial <= entry.through) return;
    entry.events.set(envelope.serial, envelope);
    entry.shown = null;
  }
}

/** A message with what is on its way to the log on top of it. @param {Folded} message @param {readonly Envelope[]} envelopes @returns {Folded} */
export function withPending(message, envelopes) {
  if (envelopes.length === 0) return message;
  const state = structuredClone(message);
  for (const envelope of envelopes) apply(state, envelope);
  return state;
}

/** The state of a message through its own serial; null where it is not a valid one. @param {Envelope} envelope @returns {Folded | null} */
function begin({ serial, id, client, time, data }) {
  if (!isObject(data) || typeof client !== "string") return null;
  const files = filesOf(data.files);
  const mentions = mentionsOf(data.mentions);
  if (files === null || mentions === null || !isText(data.text, files.length > 0)) return null;
  const thread = data.thread ?? null;
  if (thread !== null && !(isWhole(thread) && thread >= 1 && thread < serial)) return null;
  const replies = { count: 0, last: null, clients: [] };
  const also = thread !== null && data.also === true;
  return { serial, id, client, time, text: data.text, edited: null, deleted: null, reactions: [], thread, also, replies, mentions, files };
}

/** Changes a message by one event about it, the next in the log. Invalid events change nothing. @param {Folded} state @param {Envelope} envelope */
function apply(state, { event, client, time, data }) {
  if (!isObject(data)) return;
  if (event === "message") {
    const { replies } = state;
    replies.count += 1;
    replies.last = time;
    if (client !== null && !replies.clients.includes(client) && replies.clients.length < REPLIERS_MOST) replies.clients.push(client);
  } else if (event === "edit") {
    const mentions = mentionsOf(data.mentions);
    const isAllowed = client !== null && client === state.client && state.deleted === null;
    if (!isAllowed || mentions === null || !isText(data.text, state.files.length > 0)) return;
    Object.assign(state, { text: data.text, mentions, edited: time });
  } else if (event === "delete") {
    if (state.deleted !== null) return;
    const byModerator = isClient(data.by) ? data.by : null;
    const by = client === null ? byModerator : client === state.client ? "author" : null;
    if (by !== null) Object.assign(state, { deleted: by, text: "", edited: null, reactions: [], mentions: [], files: [] });
  } else if (event === "react" && typeof client === "string" && state.deleted === null) react(state, client, data.emoji, data.on);
}

/** @param {Folded} state @param {string} client @param {unknown} emoji @param {unknown} on */
function react(state, client, emoji, on) {
  if (typeof emoji !== "string" || emoji === "" || length(emoji) > EMOJI_CHARS || typeof on !== "boolean") return;
  const known = state.reactions.find((each) => each.emoji === emoji);
  if (on) {
    if (known === undefined) {
      if (state.reactions.length < EMOJI_MOST) state.reactions.push({ emoji, clients: [client] });
    } else if (!known.clients.includes(client)) known.clients.push(client);
  } else if (known?.clients.includes(client)) {
    known.clients = known.clients.filter((each) => each !== client);
    if (known.clients.length === 0) state.reactions = state.reactions.filter((each) => each !== known);
  }
}

/** The serial that an edit, deletion or reaction is about: one before its own. @param {Envelope} envelope */
function target({ serial, data }) {
  const of = isObject(data) ? data.of : null;
  return isWhole(of) && of >= 1 && of < serial ? of : null;
}

/** A `member` or `room` event as it is shown. Only the server publishes them: without a client. @param {Envelope} envelope @returns {Notice | null} */
function noticeOf({ serial, time, event, client, data }) {
  if (!isObject(data) || client !== null) return null;
  const isValid = event === "member" ? MEMBER_ACTIONS.has(data.action) && isClient(data.client) : isClient(data.by);
  return isValid ? { serial, time, event, data } : null;
}

/** @param {unknown} value @returns {string[] | null} */
function mentionsOf(value) {
  if (value === null || value === undefined) return [];
  return Array.isArray(value) && value.length <= MENTIONS_MOST && value.every(isClient) ? [...value] : null;
}

/** @param {unknown} value @returns {FileInfo[] | null} */
function filesOf(value) {
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value) || value.length > FILES_MOST) return null;
  /** @type {FileInfo[]} */
  const files = [];
  for (const each of value) {
    if (!isObject(each)) return null;
    /** @type {Record<string, unknown>} */
    const file = {};
    for (const name of ["id", "name", "type"]) {
      const text = each[name];
      if (typeof text !== "string" || text === "" || length(text) > FILE_CHARS) return null;
      file[name] = text;
    }
    for (const name of ["size", "width", "height"]) {
      const number = each[name] ?? null;
      if (number === null && name !== "size") continue;
      if (!isWhole(number) || number < 0) return null;
      file[name] = number;
    }
    files.push(/** @type {FileInfo} */ (/** @type {unknown} */ (file)));
  }
  return files;
}

/** In characters as the server counts them: code points. @param {string} text */
const length = (text) => (text.length === 0 ? 0 : [...text].length);

/** @param {unknown} value @returns {value is Record<string, any>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {unknown} value @returns {value is number} */
const isWhole = (value) => Number.isSafeInteger(value);

/** @param {unknown} value @returns {value is string} */
const isClient = (value) => typeof value === "string" && value !== "" && length(value) <= CLIENT_CHARS;

/** @param {unknown} value @param {boolean} mayBeEmpty @returns {value is string} */
const isText = (value, mayBeEmpty) => typeof value === "string" && (mayBeEmpty || value !== "") && length(value) <= TEXT_CHARS;
