// What the page asks the server for over HTTP, and what it says when it cannot have it.

/** The server refused, or was not there. */
export class ApiError extends Error {
  /** @param {string} code @param {string} message @param {string} [remedy] */
  constructor(code, message, remedy = "") {
    super(message);
    this.code = code;
    this.remedy = remedy;
  }
}

/** What Django asks of every request that changes something: the page has it in the form that logs out. */
export function csrfToken() {
  const field = document.querySelector("input[name=csrfmiddlewaretoken]");
  return field instanceof HTMLInputElement ? field.value : "";
}

/**
 * @param {"GET" | "POST" | "PATCH"} method
 * @param {string} path
 * @param {Record<string, unknown>} [body] Of a GET: its query.
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function ask(method, path, body = {}, signal) {
  /** @type {RequestInit} */
  const options = { method, credentials: "same-origin", headers: { Accept: "application/json" }, signal };
  if (method === "GET") {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(body)) if (value !== undefined && value !== null) query.set(name, String(value));
    if (query.size > 0) path = `${path}?${query}`;
  } else {
    options.headers = { ...options.headers, "Content-Type": "application/json", "X-CSRFToken": csrfToken() };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("unreachable", "The server cannot be reached.", "Try again when the line is back.");
  }
  return answerOf(response.status, await response.text());
}

/** @param {number} status @param {string} text @returns {any} */
export function answerOf(status, text) {
  /** @type {any} */
  let answer = null;
  try {
    answer = text === "" ? {} : JSON.parse(text);
  } catch {
    // A page of a proxy, or of the log in: the status says enough.
  }
  if (status >= 200 && status < 300 && answer !== null) return answer;
  const { code, message, remedy } = answer?.error ?? {};
  throw new ApiError(code ?? `http_${status}`, message ?? (status === 401 || status === 403 ? "You may not do this." : `The server answered ${status}.`), remedy);
}
