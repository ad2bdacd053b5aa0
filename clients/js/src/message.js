// A message to publish: checked, and its data written as JSON once.

import { SeriatimError } from "./errors.js";
import { isEvent, isKey, isMessageId } from "./names.js";

/** How deep data may be nested (docs/reference/protocol.md, "Publishing"). */
const MOST_DEEP = 64;
/** A surrogate that JSON.stringify had to escape because it stands alone; an escaped backslash before it is none. */
const LONE_SURROGATE = /(?<!\\)(?:\\\\)*\\ud[89a-f]/;

/**
 * Gives the data as JSON text. Throws `bad_frame` for what the server would refuse with it.
 *
 * @param {{ id: unknown, event: unknown, key: unknown, data: unknown }} message
 * @returns {string}
 */
export function checkMessage({ id, event, key, data }) {
  if (!isMessageId(id)) throw bad("id", "1 to 64 visible ASCII characters");
  if (!isEvent(event)) throw bad("event", "1 to 64 characters");
  if (key !== null && !isKey(key)) throw bad("key", "1 to 128 characters without control characters");
  let json;
  try {
    json = JSON.stringify(data ?? null);
  } catch (cause) {
    throw new SeriatimError("bad_frame", "the data cannot be written as JSON", { cause });
  }
  if (json === undefined) throw bad("data", "something that JSON can hold");
  if (LONE_SURROGATE.test(json)) throw bad("data", "text without lone surrogates");
  if (depthOf(json) > MOST_DEEP) throw bad("data", `nested at most ${MOST_DEEP} deep`);
  return json;
}

/** @param {string} field @param {string} wanted */
function bad(field, wanted) {
  return new SeriatimError("bad_frame", `\`${field}\` of the message is not ${wanted}`, { remedy: `Give ${wanted}.` });
}

/** @param {string} json */
function depthOf(json) {
  let depth = 0;
  let deepest = 0;
  let isText = false;
  for (let i = 0; i < json.length; i++) {
    const unit = json.charCodeAt(i);
    if (isText) {
      if (unit === 0x5c) i += 1;
      else if (unit === 0x22) isText = false;
    } else if (unit === 0x22) isText = true;
    else if (unit === 0x7b || unit === 0x5b) deepest = Math.max(deepest, ++depth);
    else if (unit === 0x7d || unit === 0x5d) depth -= 1;
  }
  return deepest;
}
