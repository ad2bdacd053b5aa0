// The client of a page: who we are, where tokens come from, what carries it, and that unsent messages outlive a reload.

import { allTransports, Client, LocalOutboxStorage, LocalTransportMemory } from "../seriatim/index.js";
import { showAnnouncements } from "./announced.js";
import { SockJsTransport } from "./sockjs-transport.js";

/**
 * @param {{ tokenUrl: string, clientId: string, keepsUnsent?: boolean }} page
 * @returns {Client}
 */
export function connect({ tokenUrl, clientId, keepsUnsent = false }) {
  const client = new Client({
    url: "/ws",
    clientId,
    token: () => fetchToken(tokenUrl),
    storage: keepsUnsent ? storage(() => new LocalOutboxStorage(localStorage)) : undefined,
    ...transports(),
  });
  // What concerns no channel and no message: for whoever opens the console.
  client.on("error", (error) => console.warn(`Seriatim: ${error.message}`, error.cause ?? ""));
  showAnnouncements(client);
  return client;
}

/** @param {string} url */
export async function fetchToken(url) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" });
  // 401 means signed out; the client tells that from a server that is away by `status`.
  if (!response.ok) throw Object.assign(new Error(`No token: ${response.status}`), { status: response.status });
  return /** @type {{ token: string }} */ (await response.json()).token;
}

/**
 * Whatever gets through; `?transport=polling` in the page's address has one alone, to see how it does. A page that has the
 * SockJS client takes `?transport=sockjs` too, and `&within=xhr-polling` for what SockJS itself may use.
 */
export function transports() {
  const all = allTransports();
  const asked = new URLSearchParams(globalThis.location?.search);
  const forced = asked.get("transport");
  const { SockJS } = /** @type {{ SockJS?: import("./sockjs-transport.js").SockJsConstructor }} */ (/** @type {unknown} */ (globalThis));
  const url = globalThis.document?.querySelector("script[data-sockjs]")?.getAttribute("data-sockjs");
  if (forced === "sockjs" && SockJS !== undefined && url) {
    return { transports: [new SockJsTransport(SockJS, url, asked.get("within")?.split(","))] };
  }
  const only = all.filter((transport) => transport.name === forced);
  if (only.length > 0) return { transports: only };
  return { transports: all, memory: storage(() => new LocalTransportMemory(localStorage)) };
}

/**
 * What is kept in the storage of the browser; nothing where that is off: unsent messages then last as long as the page.
 *
 * @template T
 * @param {() => T} make
 * @returns {T | undefined}
 */
function storage(make) {
  try {
    return make();
  } catch {
    return undefined;
  }
}
