// A first-in, first-out list whose head is cheap to take.

/** @template T */
export class Queue {
  /** @type {T[]} */
  #items = [];
  #head = 0;

  get length() {
    return this.#items.length - this.#head;
  }

  /** @returns {T | undefined} */
  peek() {
    return this.#items[this.#head];
  }

  /** @param {T} item */
  push(item) {
    this.#items.push(item);
  }

  /** @param {T} item */
  unshift(item) {
    if (this.#head > 0) this.#items[--this.#head] = item;
    else this.#items.unshift(item);
  }

  /** @returns {T | undefined} */
  shift() {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#head];
    // Let go of it at once: a message may be large.
    this.#items[this.#head++] = /** @type {any} */ (undefined);
    if (this.#head > 512 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    if (this.length === 0) this.clear();
    return item;
  }

  clear() {
    this.#items = [];
    this.#head = 0;
  }
}
