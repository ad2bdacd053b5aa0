// Names of client ids: those the page came with, others asked for as they are met.

import { clientName } from "./names.js";

export class People {
  /** @type {Map<string, string>} */
  #names;
  #url;
  #onChange;
  /** @type {Set<string>} Asked for, or about to be. */
  #asked = new Set();
  /** @type {Set<string>} */
  #wanted = new Set();

  /**
   * @param {Record<string, string>} names
   * @param {string} url
   * @param {() => void} onChange More names are known.
   */
  constructor(names, url, onChange) {
    this.#names = new Map(Object.entries(names));
    this.#url = url;
    this.#onChange = onChange;
  }

  /** The name of a client, or its id until the name is known. @param {string | null} client */
  nameOf(client) {
    const known = client === null ? undefined : this.#names.get(client);
    if (known === undefined && client !== null && !this.#asked.has(client)) this.#want(client);
    return known ?? clientName(client);
  }

  /** Whether this is the client id of somebody whose name is known. @param {string} client */
  knows(client) {
    return this.#names.has(client);
  }

  /** Those whose id or name begins so, or has a word that does. @param {string} text @param {number} most */
  matching(text, most) {
    const wanted = text.toLowerCase();
    const found = [...this.#names].filter(([client, name]) => [client, ...name.split(/\s+/)].some((each) => each.toLowerCase().startsWith(wanted)));
    return found.slice(0, most).map(([client, name]) => ({ client, name }));
  }

  /** @param {{ client: string, name: string }[]} found */
  learn(found) {
    let isNew = false;
    for (const { client, name } of found) {
      isNew ||= this.#names.get(client) !== name;
      this.#names.set(client, name);
    }
    if (isNew) this.#onChange();
  }

  /** @param {string} client */
  #want(client) {
    this.#asked.add(client);
    this.#wanted.add(client);
    if (this.#wanted.size === 1) queueMicrotask(() => void this.#ask());
  }

  async #ask() {
    const wanted = [...this.#wanted];
    this.#wanted.clear();
    try {
      const query = new URLSearchParams(wanted.slice(0, 200).map((client) => ["id", client]));
      const response = await fetch(`${this.#url}?${query}`, { credentials: "same-origin" });
      if (!response.ok) return;
      const { names } = /** @type {{ names: Record<string, string> }} */ (await response.json());
      for (const [client, name] of Object.entries(names)) this.#names.set(client, name);
      if (Object.keys(names).length > 0) this.#onChange();
    } catch {
      // The id does as a name. The next meeting asks again.
      for (const client of wanted) this.#asked.delete(client);
    }
  }
}
