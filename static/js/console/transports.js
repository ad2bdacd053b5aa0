// The transports one may choose from. The first is the best here.

import { WebSocketTransport } from "../../seriatim/index.js";
import { socketUrl } from "../../seriatim/transport-websocket.js";

/** @typedef {import("../../seriatim/transport-websocket.js").Transport} Transport */

/** @type {readonly { name: string, label: string, url: () => string, make: () => Transport }[]} */
export const TRANSPORTS = [{ name: "websocket", label: "WebSocket", url: () => socketUrl("/ws"), make: () => new WebSocketTransport() }];
