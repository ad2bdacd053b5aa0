// A clock that a test moves by hand.

export class FakeClock {
  #now;
  #next = 1;
  /** @type {Map<number, { at: number, run: () => void }>} */
  #timers = new Map();

  constructor(now = 1_763_812_345_000) {
    this.#now = now;
  }

  now = () => this.#now;

  setTimeout = (run, delayMs) => {
    const id = this.#next++;
    this.#timers.set(id, { at: this.#now + delayMs, run });
    return id;
  };

  clearTimeout = (id) => {
    this.#timers.delete(id);
  };

  /** How many timers are set. */
  get pending() {
    return this.#timers.size;
  }

  /** Moves time, running what falls due on the way at its own moment. */
  async advance(ms) {
    const end = this.#now + ms;
    await settled();
    for (;;) {
      const due = [...this.#timers]
        .filter(([, timer]) => timer.at <= end)
        .sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!due) break;
      const [id, timer] = due;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, timer.at);
      timer.run();
      await settled();
    }
    this.#now = end;
    await settled();
  }

  /** Moves time while nothing runs, as when a machine sleeps; what fell due fires late. */
  async sleep(ms) {
    this.#now += ms;
    await this.advance(0);
  }
}

/** Lets promises run until they have nothing more to do. */
export async function settled() {
  for (let i = 0; i < 30; i++) await null;
}
