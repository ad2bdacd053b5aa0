// Every error code and close code of the wire, and what a client does about it (docs/reference/protocol.md, "Errors and
// close codes"). The server has the same table in realtime/protocol/errors.py; both are tested against tests/vectors.

/**
 * @typedef {object} ErrorRow
 * @property {number} httpStatus The status of the same error over HTTP.
 * @property {"client" | "server"} fault
 * @property {boolean} retry Whether the same request can succeed later without a change.
 * @property {string} meaning
 */

/** @type {Readonly<Record<string, ErrorRow>>} */
export const ERRORS = Object.freeze({
  bad_frame: {
    httpStatus: 400,
    fault: "client",
    retry: false,
    meaning: "not JSON, not an object, a missing or wrong field",
  },
  unknown_type: {
    httpStatus: 400,
    fault: "client",
    retry: false,
    meaning: "a frame of a type that the server does not know",
  },
  bad_channel: { httpStatus: 400, fault: "client", retry: false, meaning: "not a channel name" },
  bad_position: { httpStatus: 400, fault: "client", retry: false, meaning: "not a position" },
  bad_ack: { httpStatus: 400, fault: "client", retry: false, meaning: "an ack beyond what was sent" },
  unauthorized: {
    httpStatus: 401,
    fault: "client",
    retry: false,
    meaning: "no token, or a bad, expired or revoked one",
  },
  forbidden: { httpStatus: 403, fault: "client", retry: false, meaning: "not allowed" },
  not_found: {
    httpStatus: 404,
    fault: "client",
    retry: false,
    meaning: "a channel that must be created first, or an unknown namespace",
  },
  not_attached: { httpStatus: 409, fault: "client", retry: false, meaning: "the channel is not attached" },
  order: { httpStatus: 409, fault: "client", retry: true, meaning: "a chained publish behind one that failed" },
  too_large: { httpStatus: 413, fault: "client", retry: false, meaning: "a message or frame over its limit" },
  rate_limited: { httpStatus: 429, fault: "client", retry: true, meaning: "too many requests in a time" },
  limit_exceeded: {
    httpStatus: 429,
    fault: "client",
    retry: false,
    meaning: "too many attachments, members or the like",
  },
  unavailable: {
    httpStatus: 503,
    fault: "server",
    retry: true,
    meaning: "the database is away or a queue is full; the outcome is unknown",
  },
  internal: { httpStatus: 500, fault: "server", retry: true, meaning: "a fault of the server" },
});

/** Codes that never travel: this client says them itself. */
export const LOCAL_ERRORS = Object.freeze({
  aborted: "the caller's signal ended the wait",
  closed: "the client was closed",
  detached: "the channel was detached",
  discarded: "the message was discarded before it was sent",
  delta: "a difference did not fit what came before; the client resumes from its own position",
  gap: "serials did not follow each other; the client resumes from its own position",
  identity: "the connection now belongs to another client id; the message stays with the one who wrote it",
  listener: "a message listener failed",
  load_state: "the loader of the state failed; it is called again",
  outbox_full: "too much is waiting to be sent",
  storage: "the storage of unsent messages failed",
  token: "the token function failed",
});

/**
 * What a client does when the socket is closed.
 *
 * - `no`: nothing. 1000 was meant; anything else would happen again, or an operator wants it so.
 * - `backoff`: tries again, with backoff.
 * - `after_hint`: tries again when the server said.
 * - `new_token`: asks for a token, then tries again; the second refusal in a row ends it.
 * - `on_demand`: tries again when there is something to say or to follow.
 *
 * @typedef {"no" | "backoff" | "after_hint" | "new_token" | "on_demand"} Reconnect
 */

/**
 * @typedef {object} CloseRow
 * @property {Reconnect} reconnect
 * @property {string} meaning
 */

/** @type {Readonly<Record<number, CloseRow>>} */
export const CLOSES = Object.freeze({
  1000: { reconnect: "no", meaning: "normal" },
  1001: { reconnect: "backoff", meaning: "page or server going away" },
  1003: { reconnect: "no", meaning: "binary frame" },
  1007: { reconnect: "no", meaning: "text that is not UTF-8" },
  1009: { reconnect: "no", meaning: "frame over max_frame_bytes" },
  1011: { reconnect: "backoff", meaning: "server fault" },
  1012: { reconnect: "after_hint", meaning: "worker restarting or draining" },
  1013: { reconnect: "after_hint", meaning: "overloaded" },
  4400: { reconnect: "no", meaning: "too many frames that the server could not read" },
  4401: { reconnect: "new_token", meaning: "token missing, bad, expired or revoked" },
  4403: { reconnect: "no", meaning: "disconnected by an operator, or client blocked" },
  4408: { reconnect: "on_demand", meaning: "no auth in time, or idle too long" },
  4410: { reconnect: "backoff", meaning: "the socket took nothing for too long" },
  4429: { reconnect: "after_hint", meaning: "over its rate for long" },
});

/**
 * The code that a plain ASGI server means: it cannot send 1001–1013 and sends 4000 + the last two digits instead.
 *
 * @param {number} code
 */
export function meantCode(code) {
  return code >= 4001 && code <= 4013 ? code - 3000 : code;
}

/**
 * What to do about a close code. A code that is not in the table, also 1005 and 1006 which only the browser says, is a
 * line that broke.
 *
 * @param {number} code
 * @returns {Reconnect}
 */
export function reconnectAfter(code) {
  return CLOSES[meantCode(code)]?.reconnect ?? "backoff";
}

/**
 * The `retry_after_ms=…` of a close reason, or null.
 *
 * @param {string} reason
 */
export function retryAfterMs(reason) {
  const match = /(?:^|[\s;,])retry_after_ms=(\d{1,9})/.exec(reason);
  return match ? Number(match[1]) : null;
}
