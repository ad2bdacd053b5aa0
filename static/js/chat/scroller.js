// Keeps what is being read where it is, whatever is added above, below or around it.
//
// At the bottom the view stays at the bottom. Anywhere else the message at the top of the view keeps its place on the screen.

/** So near to the bottom counts as being there. */
const NEAR_PX = 48;

export class Scroller {
  #box;
  #isAtBottom = true;
  #height = 0;
  /** @type {() => void} */
  onMove = () => {};

  /** @param {HTMLElement} box */
  constructor(box) {
    this.#box = box;
    box.addEventListener("scroll", () => this.#look(), { passive: true });
    // A banner or a growing composer takes its room from the top of the view: the bottom stays.
    new ResizeObserver(() => {
      const lost = this.#height - box.clientHeight;
      this.#height = box.clientHeight;
      if (this.#isAtBottom) this.toBottom();
      else box.scrollTop += lost;
    }).observe(box);
    this.#height = box.clientHeight;
  }

  get isAtBottom() {
    return this.#isAtBottom;
  }

  /** How far the view is from the oldest message. */
  get fromTop() {
    return this.#box.scrollTop;
  }

  toBottom() {
    this.#isAtBottom = true;
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  /**
   * Runs what changes the content, and puts the view right after it.
   *
   * @param {() => void} change
   */
  around(change) {
    const anchor = this.#isAtBottom ? null : this.#anchor();
    change();
    if (anchor === null) {
      this.toBottom();
      return;
    }
    const moved = anchor.node.isConnected ? anchor.node.getBoundingClientRect().top - anchor.top : 0;
    if (moved !== 0) this.#box.scrollTop += moved;
    this.#look();
  }

  /** The first message that is in view. */
  #anchor() {
    const top = this.#box.getBoundingClientRect().top;
    for (const node of this.#box.querySelectorAll("li.msg")) {
      const box = node.getBoundingClientRect();
      if (box.bottom > top + 1) return { node, top: box.top };
    }
    return { node: this.#box, top: this.#box.getBoundingClientRect().top };
  }

  #look() {
    const left = this.#box.scrollHeight - this.#box.clientHeight - this.#box.scrollTop;
    this.#isAtBottom = left < NEAR_PX;
    this.onMove();
  }
}
