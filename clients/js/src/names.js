// The names of the wire (docs/reference/protocol.md, "Frames"). Checked here too, because a server that gets too many
// frames with bad ones closes the connection of everything else on it.

import { SeriatimError } from "./errors.js";

const CHANNEL = /^[A-Za-z0-9_\-.:@=]{1,200}$/;
const NAMESPACE = /^[A-Za-z0-9_-]{1,64}$/;
const EPOCH = /^[A-Za-z0-9_-]{4,32}$/;
const CURSOR = /^[A-Za-z0-9_\-.:@=]{1,64}$/;
const CLIENT_ID = /^[\x21-\x7e]{1,128}$/;
const MESSAGE_ID = /^[\x21-\x7e]{1,64}$/;
const CONTROL = /\p{Cc}/u;

/**
 * The namespace of a channel name, or null when it is not one.
 *
 * @param {unknown} name
 * @returns {string | null}
 */
export function namespaceOf(name) {
  if (typeof name !== "string" || !CHANNEL.test(name)) return null;
  const parts = name.split(":");
  if (parts.some((part) => part === "" || part === "." || part === "..")) return null;
  if (parts.length === 1) return "default";
  return NAMESPACE.test(parts[0]) && parts[0] !== "default" ? parts[0] : null;
}

/** @param {string} name */
export function checkChannel(name) {
  if (namespaceOf(name) !== null) return;
  throw new SeriatimError("bad_channel", `${JSON.stringify(name)} is not a channel name`, {
    remedy: "Use namespace:name, up to 200 of A–Z a–z 0–9 _ - . : @ =",
  });
}

/** @param {unknown} value @returns {value is string} */
export function isEpoch(value) {
  return typeof value === "string" && EPOCH.test(value);
}

/** @param {unknown} value @returns {value is string} */
export function isCursorName(value) {
  return typeof value === "string" && CURSOR.test(value);
}

/** @param {unknown} value @returns {value is string} */
export function isClientId(value) {
  return typeof value === "string" && CLIENT_ID.test(value);
}

/** @param {unknown} value @returns {value is string} */
export function isMessageId(value) {
  return typeof value === "string" && MESSAGE_ID.test(value);
}

/** @param {unknown} value @returns {value is string} */
export function isEvent(value) {
  return typeof value === "string" && hasLength(value, 64);
}

/** @param {unknown} value @returns {value is string} */
export function isKey(value) {
  return typeof value === "string" && hasLength(value, 128) && !CONTROL.test(value);
}

/** Counts characters as the server does: a pair of surrogates is one. @param {string} value @param {number} most */
function hasLength(value, most) {
  if (value.length === 0 || value.length > most * 2) return false;
  return [...value].length <= most;
}
