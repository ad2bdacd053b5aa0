// Named events with typed values. Knows nothing of channels or sockets.
//
// A listener that throws must not keep the others from hearing, and must not break the code that emits: the error goes
// to `reportError` where there is one (browsers show it as an uncaught error), else it is thrown from a microtask.

/** @param {unknown} error */
export function report(error) {
  const scope = /** @type {{ reportError?: (error: unknown) => void }} */ (globalThis);
  if (typeof scope.reportError === "function") scope.reportError(error);
  else
    queueMicrotask(() => {
      throw error;
    });
}

/**
 * @template {Record<string, any>} Events
 */
export class Emitter {
  /** @type {Map<keyof Events, Set<(value: any) => unknown>>} */
  #listeners = new Map();

  /**
   * Calls `listener` at each `event` until the function returned here is called.
   *
   * @template {keyof Events} K
   * @param {K} event
   * @param {(value: Events[K]) => unknown} listener
   * @returns {() => void}
   */
  on(event, listener) {
    let set = this.#listeners.get(event);
    if (!set) this.#listeners.set(event, (set = new Set()));
    // Each call of `on` stands alone, also with a function that listens already.
    const own = /** @param {Events[K]} value */ (value) => listener(value);
    set.add(own);
    return () => {
      set.delete(own);
    };
  }

  /**
   * Resolves with the value of the next `event`.
   *
   * @template {keyof Events} K
   * @param {K} event
   * @returns {Promise<Events[K]>}
   */
  once(event) {
    return new Promise((resolve) => {
      const off = this.on(event, (value) => {
        off();
        resolve(value);
      });
    });
  }

  /**
   * @template {keyof Events} K
   * @param {K} event
   * @param {Events[K]} value
   */
  emit(event, value) {
    for (const listener of this.listeners(event)) {
      try {
        listener(value);
      } catch (error) {
        report(error);
      }
    }
  }

  /**
   * The listeners of `event` as they are now, for callers that need what they return.
   *
   * @template {keyof Events} K
   * @param {K} event
   * @returns {((value: Events[K]) => unknown)[]}
   */
  listeners(event) {
    const set = this.#listeners.get(event);
    return set ? [...set] : [];
  }

  /** @param {keyof Events} event */
  hasListeners(event) {
    return (this.#listeners.get(event)?.size ?? 0) > 0;
  }
}
