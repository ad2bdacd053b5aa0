// Keeps what is being read where it is, whatever is added above, below or around it.
//
// At the bottom the view stays at the bottom. Anywhere else the message in the middle of the view keeps its place on the screen.

/** So near to the bottom counts as being there. */
const NEAR_PX = 48;

export class Scroller {
  #box;
  #isAtBottom = true;
  #height = 0;
  /** Set while we change the content ourselves: moving the view then is no reading. */
  #isChanging = false;
  /** @type {() => void} */
  onMove = () => {};
  /** Whether the bottom of what is in the document is the newest there is. @type {() => boolean} */
  isNewest = () => true;

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

  /** From the next change of the content on the view is at the bottom. */
  follow() {
    this.#isAtBottom = true;
  }

  /** The view is somewhere in the past, wherever it stands now. */
  release() {
    this.#isAtBottom = false;
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
    this.#isChanging = true;
    change();
    if (anchor === null) this.toBottom();
    else {
      const moved = anchor.node.isConnected ? anchor.node.getBoundingClientRect().top - anchor.top : 0;
      if (moved !== 0) this.#box.scrollTop += moved;
    }
    this.#isChanging = false;
  }

  /**
   * The message in the middle of the view: one at its edge may itself change when its neighbour becomes known, since a run
   * of one author has one head.
   */
  #anchor() {
    const { top, height } = this.#box.getBoundingClientRect();
    let found = { node: /** @type {Element} */ (this.#box), top };
    for (const node of this.#box.querySelectorAll("li.msg")) {
      const box = node.getBoundingClientRect();
      if (box.bottom <= top) continue;
      found = { node, top: box.top };
      if (box.bottom > top + height / 2) break;
    }
    return found;
  }

  #look() {
    if (this.#isChanging) return;
    const left = this.#box.scrollHeight - this.#box.clientHeight - this.#box.scrollTop;
    this.#isAtBottom = left < NEAR_PX && this.isNewest();
    this.onMove();
  }
}
