// The states of the line, and which may follow which. The page draws them; docs/reference/sdk-js.md has the same table.

/**
 * @typedef {"closed" | "connecting" | "live" | "catching_up" | "slow" | "moving" | "offline" | "waiting" | "signed_out" | "stopped"} LineStateName
 */

/**
 * @typedef {object} LineState
 * @property {LineStateName} name
 * @property {number} since Unix milliseconds. `offline`: when the last sign of life came.
 * @property {number} attempt Tries since the last good connection; 0 while connected.
 * @property {number | null} nextTryAt When the next try begins by itself.
 * @property {number | null} lostAt When the line was lost, until it is live again.
 * @property {string} reason For people and logs.
 * @property {number | null} code The close code that led here.
 */

const END = /** @type {const} */ (["offline", "waiting", "signed_out", "stopped", "closed"]);
const UP = /** @type {const} */ (["live", "catching_up", "slow", "moving"]);

/**
 * - `closed`: not connected, and not trying. The first state.
 * - `connecting`: a try is under way, until every channel is attached again.
 * - `live`: connected; everything that the server has is here.
 * - `catching_up`: connected; older messages still come.
 * - `slow`: connected; answers have taken over 1.5 s for 5 s.
 * - `moving`: the worker said that it leaves; another takes over in a moment.
 * - `offline`: the line was lost; the next try is at `nextTryAt`.
 * - `waiting`: the server is full or asks for a pause; the next try is at `nextTryAt`.
 * - `signed_out`: the token was refused twice; `connect()` tries again.
 * - `stopped`: an operator ended it, or a fault that trying again would repeat; `connect()` tries again.
 *
 * @type {Readonly<Record<LineStateName, readonly LineStateName[]>>}
 */
export const TRANSITIONS = Object.freeze({
  closed: ["connecting"],
  connecting: ["connecting", ...UP, ...END],
  live: ["catching_up", "slow", "moving", "connecting", ...END],
  catching_up: ["live", "slow", "moving", "connecting", ...END],
  slow: ["live", "catching_up", "moving", "connecting", ...END],
  moving: ["moving", "connecting", ...END],
  offline: ["offline", "connecting", "closed"],
  waiting: ["waiting", "connecting", "closed"],
  signed_out: ["connecting", "closed"],
  stopped: ["connecting", "closed"],
});
