// SockJS as a transport of our SDK: the frames of the WebSocket as messages of a SockJS session.
//
// The library is a script that the page loads before (static/vendor/sockjs). It chooses what carries the session by itself.

/** @typedef {import("../seriatim/transport-websocket.js").Transport} Transport */
/** @typedef {import("../seriatim/transport-websocket.js").TransportLink} TransportLink */
/** @typedef {import("../seriatim/transport-websocket.js").TransportTarget} TransportTarget */

/**
 * As much of SockJS as is used.
 *
 * @typedef {object} SockJsSocket
 * @property {string | null} transport What carries the session, once it is open.
 * @property {(() => void) | null} onopen
 * @property {((event: { data: string }) => void) | null} onmessage
 * @property {((event: { code: number, reason: string }) => void) | null} onclose
 * @property {(text: string) => void} send Throws before the session is open.
 * @property {(code?: number, reason?: string) => void} close
 */

/** @typedef {new (url: string, reserved: null, options: { transports?: string[], sessionId?: number }) => SockJsSocket} SockJsConstructor */

/** Of the session's id, which is its secret where no cookie is: 110 random bits. */
const ID_CHARS = 22;

/** How the SDK gives a WebSocket its token, which SockJS has no place for. */
const BEARER = "seriatim.bearer.";

/** @implements {Transport} */
export class SockJsTransport {
  name = "sockjs";
  #Socket;
  #url;
  #within;

  /**
   * @param {SockJsConstructor} constructor
   * @param {string} url Where the server has its SockJS.
   * @param {string[]} [within] Which of its own transports SockJS may choose from. Default: all.
   */
  constructor(constructor, url, within) {
    this.#Socket = constructor;
    this.#url = url;
    this.#within = within;
  }

  /** @param {TransportTarget} target @returns {TransportLink} */
  open({ protocols, onOpen, onText, onClose }) {
    const within = this.#within === undefined ? {} : { transports: this.#within };
    const socket = new this.#Socket(this.#url, null, { sessionId: ID_CHARS, ...within });
    const token = protocols.find((each) => each.startsWith(BEARER))?.slice(BEARER.length);
    let isOpen = false;
    socket.onopen = () => {
      isOpen = true;
      this.name = `sockjs ${socket.transport}`;
      if (token !== undefined) socket.send(JSON.stringify({ type: "auth", ref: 0, token }));
      onOpen();
    };
    socket.onmessage = ({ data }) => onText(data);
    socket.onclose = ({ code, reason }) => {
      isOpen = false;
      onClose(code, reason);
    };
    return {
      send(text) {
        if (isOpen) socket.send(text);
      },
      close(code, reason) {
        socket.onopen = socket.onmessage = socket.onclose = null;
        isOpen = false;
        // SockJS allows applications these codes alone; the others are the server's to say.
        if (code === 1000 || (code !== undefined && code >= 3000)) socket.close(code, reason);
        else socket.close();
      },
    };
  }
}
