// A WebSocket whose line can be cut as a tunnel cuts it: nothing gets through, and nobody is told, until it is mended.

import { WebSocketTransport } from "../../seriatim/index.js";

export class CutTransport extends WebSocketTransport {
  isCut = false;
  /** @type {(() => void) | null} */
  #end = null;

  /** @param {import("../../seriatim/transport-websocket.js").TransportTarget} target */
  open(target) {
    if (this.isCut) {
      setTimeout(() => target.onClose(1006, "the line is cut"));
      return { send() {}, close() {} };
    }
    const link = super.open(target);
    this.#end = () => {
      link.close();
      target.onClose(1006, "the line is cut");
    };
    return link;
  }

  cut() {
    this.isCut = true;
    this.#end?.();
    this.#end = null;
  }

  mend() {
    this.isCut = false;
  }
}
