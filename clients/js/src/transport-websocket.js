// The WebSocket transport. It carries text and knows nothing of frames.
//
// A transport is anything with `name` and `open(target)`; tests pass one that ends in memory.

/**
 * @typedef {object} TransportTarget
 * @property {string} url
 * @property {string[]} protocols
 * @property {() => void} onOpen
 * @property {(text: string) => void} onText
 * @property {(code: number, reason: string) => void} onClose Called once; nothing follows.
 */

/**
 * @typedef {object} TransportLink
 * @property {(text: string) => void} send
 * @property {(code?: number, reason?: string) => void} close
 * @property {string | null} [transport] What carries it now, where that is not what the transport is called.
 */

/**
 * @typedef {object} Transport
 * @property {string} name
 * @property {(target: TransportTarget) => TransportLink} open Throws when the address cannot be opened at all.
 */

/** @typedef {new (url: string, protocols?: string[]) => WebSocket} WebSocketConstructor */

/**
 * The address of a socket: relative to the page, `http` as `ws`, without a fragment, which RFC 6455 does not allow.
 *
 * @param {string} url
 * @param {string} [base] Default: the page's.
 */
export function socketUrl(url, base = globalThis.location?.href) {
  let parsed;
  try {
    parsed = new URL(url, base);
  } catch {
    throw new TypeError(`"${url}" is relative and there is no page to relate it to: give the whole address.`);
  }
  if (parsed.protocol === "http:") parsed.protocol = "ws:";
  if (parsed.protocol === "https:") parsed.protocol = "wss:";
  parsed.hash = "";
  return parsed.href;
}

/** @implements {Transport} */
export class WebSocketTransport {
  name = "websocket";
  #Socket;

  /** @param {WebSocketConstructor} [constructor] Default: the global one, which Node 20 does not have. */
  constructor(constructor = globalThis.WebSocket) {
    if (typeof constructor !== "function") {
      throw new TypeError(
        'There is no global WebSocket here: pass one, as in new Client({ WebSocket }) with the "ws" package.',
      );
    }
    this.#Socket = constructor;
  }

  /**
   * @param {TransportTarget} target
   * @returns {TransportLink}
   */
  open({ url, protocols, onOpen, onText, onClose }) {
    const socket = new this.#Socket(url, protocols);
    let ended = false;
    /** @param {number} code @param {string} reason */
    const end = (code, reason) => {
      if (ended) return;
      ended = true;
      onClose(code, reason);
    };
    socket.onopen = () => onOpen();
    socket.onmessage = (event) => {
      if (!ended && typeof event.data === "string") onText(event.data);
    };
    // An error is always followed by close, which says all that a browser lets us know.
    socket.onerror = () => {};
    socket.onclose = (event) => end(event.code, event.reason);
    return {
      send(text) {
        if (socket.readyState === 1) socket.send(text);
      },
      close(code, reason) {
        ended = true;
        socket.close(code, reason);
      },
    };
  }
}
