// What was typed and not sent, kept on this device: a draft for each room, failed messages, and how far one has read.

/** @typedef {{ epoch: string | null, serial: number, time: number }} ReadMark */
/** @typedef {{ id: string, event?: string, data?: any, text: string, queuedAt: number, reason: string | null, message: string }} FailedMessage */

export class RoomMemory {
  #client;
  #storage;

  /** @param {string} client @param {Storage | null} storage Null: nothing is kept. */
  constructor(client, storage) {
    this.#client = client;
    this.#storage = storage;
  }

  /** @param {string} slug @returns {string} */
  draft(slug) {
    return String(this.#read("draft", slug) ?? "");
  }

  /** @param {string} slug @param {string} text @returns {boolean} Whether it is kept. */
  keepDraft(slug, text) {
    return this.#write("draft", slug, text === "" ? null : text);
  }

  /** @param {string} slug @returns {FailedMessage[]} */
  failed(slug) {
    const found = this.#read("failed", slug);
    return Array.isArray(found) ? found.filter((each) => typeof each?.id === "string" && typeof each.text === "string") : [];
  }

  /** @param {string} slug @param {FailedMessage[]} messages */
  keepFailed(slug, messages) {
    return this.#write("failed", slug, messages.length === 0 ? null : messages);
  }

  /** @param {string} slug @returns {ReadMark | null} */
  readMark(slug) {
    const mark = this.#read("read", slug);
    return typeof mark?.serial === "number" && typeof mark.time === "number" ? mark : null;
  }

  /** @param {string} slug @param {ReadMark} mark */
  keepReadMark(slug, mark) {
    return this.#write("read", slug, mark);
  }

  /** @param {string} kind @param {string} slug */
  #key(kind, slug) {
    return `seriatim.chat.${kind}/${encodeURIComponent(this.#client)}/${slug}`;
  }

  /** @param {string} kind @param {string} slug @returns {any} */
  #read(kind, slug) {
    try {
      return JSON.parse(this.#storage?.getItem(this.#key(kind, slug)) ?? "null");
    } catch {
      return null; // Not ours, or storage is off.
    }
  }

  /** @param {string} kind @param {string} slug @param {unknown} value */
  #write(kind, slug, value) {
    try {
      if (!this.#storage) return false;
      if (value === null) this.#storage.removeItem(this.#key(kind, slug));
      else this.#storage.setItem(this.#key(kind, slug), JSON.stringify(value));
      return true;
    } catch {
      return false; // Full, or storage is off.
    }
  }
}

/** The device's storage, or null where the browser gives none. */
export function deviceStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}
