// The transports one may choose from. The first is the best here.

import { HttpTransport, WebSocketTransport } from "../../seriatim/index.js";
import { socketUrl } from "../../seriatim/transport-websocket.js";
import { transportWord } from "../line-state.js";

/** @typedef {import("../../seriatim/transport-websocket.js").Transport} Transport */

/** @type {readonly ("streaming" | "sse" | "polling")[]} */
const OVER_HTTP = ["streaming", "sse", "polling"];

/** @type {readonly { name: string, label: string, url: () => string, make: () => Transport }[]} */
export const TRANSPORTS = [
  { name: "websocket", label: "WebSocket", url: () => socketUrl("/ws"), make: () => new WebSocketTransport() },
  ...OVER_HTTP.map((name) => ({ name, label: transportWord(name), url: () => "", make: () => new HttpTransport(name) })),
];
