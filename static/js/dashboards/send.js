// Changes over HTTP, with Django's CSRF header; errors have one shape and become sentences.

/**
 * @param {string} url
 * @param {"POST" | "PUT" | "DELETE"} method
 * @param {unknown} [body]
 * @returns {Promise<any>} The answer; rejects with what the server said, or that it could not be reached.
 */
export async function send(url, method, body = {}) {
  const token = /(?:^|; )csrftoken=([^;]+)/.exec(document.cookie)?.[1] ?? "";
  let response;
  try {
    response = await fetch(url, { method, credentials: "same-origin", headers: { "Content-Type": "application/json", "X-CSRFToken": token }, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server cannot be reached. Nothing was saved; try again.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.error ? `${answer.error.message} ${answer.error.remedy ?? ""}`.trim() : `The server answered ${response.status}.`);
  return answer;
}
