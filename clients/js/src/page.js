// For pages of a Django project: everything of the package, and a client made from what `{% seriatim_config %}` wrote
// into the page.

import { Client } from "./client.js";

export * from "./index.js";

/** Id of the element that the template tag writes. */
export const CONFIG_ID = "seriatim-config";

/**
 * What the template tag said, with its further arguments.
 *
 * @typedef {{ url: string, sdk: string, tokenUrl?: string, clientId?: string } & Record<string, unknown>} PageConfig
 */

/** @returns {PageConfig} */
export function pageConfig() {
  const element = document.getElementById(CONFIG_ID);
  if (!element) throw new Error(`This page has no element "${CONFIG_ID}". Put {% seriatim_config %} into its template.`);
  return JSON.parse(element.textContent ?? "");
}

/**
 * A client for this page, connecting. Tokens come from the project's token view, or the session cookie does without.
 *
 * @param {import("./client.js").ClientOptions} [options] Used before what the page says.
 * @returns {Client}
 */
export function connect(options = {}) {
  const { url, tokenUrl, clientId } = pageConfig();
  const token = tokenUrl === undefined ? undefined : () => fetchToken(tokenUrl);
  const client = new Client({ url, token, clientId, ...options });
  client.connect();
  return client;
}

/** @param {string} url */
async function fetchToken(url) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" });
  // 401 means signed out; the client tells that from a server that is away by `status`.
  if (!response.ok) throw Object.assign(new Error(`No token: ${response.status}`), { status: response.status });
  return /** @type {{ token: string }} */ (await response.json()).token;
}
