// Where unsent messages survive a reload.
//
// One row per message, never one row for the whole queue: two tabs of one client would overwrite each other's. A tab
// that opens finds the rows of every tab and sends them too; the ids make that harmless, since the server stores each
// (channel, client, id) once and answers both with the same serial.

/**
 * @typedef {object} StoredMessage
 * @property {string} order Sorts by when it was queued.
 * @property {string} channel
 * @property {string} id
 * @property {string} event
 * @property {string | null} key
 * @property {string} data The JSON text.
 * @property {number} queuedAt
 */

/**
 * What `new Client({ storage })` takes. Each method may fail: the message is then kept in memory only, and the client
 * emits an `error` with the code `storage`.
 *
 * @typedef {object} OutboxStorage
 * @property {(client: string) => Promise<StoredMessage[]>} load
 * @property {(client: string, message: StoredMessage) => Promise<void>} save
 * @property {(client: string, order: string) => Promise<void>} remove
 */

const PREFIX = "seriatim.outbox";

/** Keeps unsent messages in `localStorage`. @implements {OutboxStorage} */
export class LocalOutboxStorage {
  #storage;
  #prefix;

  /**
   * @param {Storage} [storage]
   * @param {string} [prefix] What the keys begin with.
   */
  constructor(storage = globalThis.localStorage, prefix = PREFIX) {
    this.#storage = storage;
    this.#prefix = prefix;
  }

  /** @param {string} client */
  async load(client) {
    const head = this.#key(client, "");
    /** @type {StoredMessage[]} */
    const found = [];
    for (let i = 0; i < this.#storage.length; i++) {
      const key = this.#storage.key(i);
      if (!key?.startsWith(head)) continue;
      const message = readStored(this.#storage.getItem(key));
      if (message) found.push(message);
    }
    return found;
  }

  /**
   * @param {string} client
   * @param {StoredMessage} message
   */
  async save(client, message) {
    this.#storage.setItem(this.#key(client, message.order), JSON.stringify(message));
  }

  /**
   * @param {string} client
   * @param {string} order
   */
  async remove(client, order) {
    this.#storage.removeItem(this.#key(client, order));
  }

  /** @param {string} client @param {string} order */
  #key(client, order) {
    return `${this.#prefix}/${encodeURIComponent(client)}/${order}`;
  }
}

/** @param {string | null} text @returns {StoredMessage | null} */
function readStored(text) {
  try {
    const value = JSON.parse(text ?? "null");
    const fields = ["order", "channel", "id", "event", "data"];
    if (value === null || fields.some((field) => typeof value[field] !== "string")) return null;
    return { ...value, key: value.key ?? null, queuedAt: Number(value.queuedAt) || 0 };
  } catch {
    return null; // Not ours, or cut short: leave it where it is.
  }
}
