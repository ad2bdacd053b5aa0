// The client of a page: who we are, where tokens come from, and that unsent messages outlive a reload.

import { Client, LocalOutboxStorage } from "../seriatim/index.js";

/**
 * @param {{ tokenUrl: string, clientId: string, keepsUnsent?: boolean }} page
 * @returns {Client}
 */
export function connect({ tokenUrl, clientId, keepsUnsent = false }) {
  const client = new Client({
    url: "/ws",
    clientId,
    token: () => fetchToken(tokenUrl),
    storage: keepsUnsent ? storage() : undefined,
  });
  // What concerns no channel and no message: for whoever opens the console.
  client.on("error", (error) => console.warn(`Seriatim: ${error.message}`, error.cause ?? ""));
  return client;
}

/** @param {string} url */
export async function fetchToken(url) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" });
  // 401 means signed out; the client tells that from a server that is away by `status`.
  if (!response.ok) throw Object.assign(new Error(`No token: ${response.status}`), { status: response.status });
  return /** @type {{ token: string }} */ (await response.json()).token;
}

function storage() {
  try {
    return new LocalOutboxStorage(localStorage);
  } catch {
    return undefined; // Storage is off: unsent messages last as long as the page.
  }
}
