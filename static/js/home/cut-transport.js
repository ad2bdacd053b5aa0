// A line that can be cut as a tunnel cuts it: nothing gets through, and nobody is told, until it is mended.

import { allTransports, WebSocketTransport } from "../../seriatim/index.js";

export class CutTransport extends WebSocketTransport {
  isCut = false;
  #nameOfBest;
  /** @type {(() => void) | null} */
  #end = null;

  /** @param {() => string} nameOfBest The transport that gets through here, as another client found out. */
  constructor(nameOfBest) {
    super();
    this.#nameOfBest = nameOfBest;
  }

  /** @param {import("../../seriatim/transport-websocket.js").TransportTarget} target */
  open(target) {
    if (this.isCut) {
      setTimeout(() => target.onClose(1006, "the line is cut"));
      return { send() {}, close() {} };
    }
    const other = allTransports().find(({ name }) => name !== this.name && name === this.#nameOfBest());
    const link = other === undefined ? super.open(target) : other.open(target);
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
