// Fossil deltas: a text out of the text before it and a difference, both as UTF-8. Pure.
// The format: https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki. All numbers count bytes.

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
/** Of each byte its value as a digit, or -1. */
const VALUES = new Int8Array(256).fill(-1);
for (let value = 0; value < DIGITS.length; value++) VALUES[DIGITS.charCodeAt(value)] = value;
/** No size or offset reaches this; the checksum is below it. */
const MOST = 2 ** 32;

const [NEWLINE, COMMA, COLON, SEMICOLON, AT] = [..."\n,:;@"].map((sign) => sign.charCodeAt(0));

/** The delta is none, or not for this base. */
export class DeltaError extends Error {}

/**
 * The text that `delta` makes of `base`. Throws DeltaError; never gives a text whose checksum is wrong.
 *
 * @param {Uint8Array} base
 * @param {Uint8Array} delta
 * @returns {Uint8Array}
 */
export function applyDelta(base, delta) {
  let at = 0;
  const number = () => {
    const start = at;
    let value = 0;
    for (; at < delta.length && VALUES[delta[at]] >= 0; at++) {
      value = value * 64 + VALUES[delta[at]];
      if (value >= MOST) throw new DeltaError("a number is too large");
    }
    if (at === start) throw new DeltaError("a number is missing");
    return value;
  };
  /** @param {number} sign */
  const expect = (sign) => {
    if (delta[at] !== sign) throw new DeltaError(`${String.fromCharCode(sign)} is missing`);
    at += 1;
  };
  const size = number();
  expect(NEWLINE);
  /** @type {Uint8Array[]} Pieces, not a buffer of the size that is said: that may be a lie. */
  const pieces = [];
  let made = 0;
  for (;;) {
    const count = number();
    const sign = delta[at];
    at += 1;
    if (sign === AT) {
      const offset = number();
      expect(COMMA);
      if (offset + count > base.length) throw new DeltaError("a copy reaches beyond the base");
      pieces.push(base.subarray(offset, offset + count));
      made += count;
    } else if (sign === COLON) {
      if (at + count > delta.length) throw new DeltaError("a literal reaches beyond the delta");
      pieces.push(delta.subarray(at, at + count));
      made += count;
      at += count;
    } else if (sign === SEMICOLON) {
      const text = join(pieces, made);
      if (at !== delta.length || made !== size || count !== checksum(text)) {
        throw new DeltaError("the checksum is another: the delta belongs to another base");
      }
      return text;
    } else throw new DeltaError("an unknown command");
    if (made > size) throw new DeltaError("more came out than was said");
  }
}

/** @param {Uint8Array[]} pieces @param {number} size */
function join(pieces, size) {
  const text = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    text.set(piece, at);
    at += piece.length;
  }
  return text;
}

/** The sum of the text as big-endian words of 32 bits, the last one filled up with zeros. @param {Uint8Array} text */
function checksum(text) {
  let sum = 0;
  for (let at = 0; at < text.length; at++) sum = (sum + (text[at] << (24 - 8 * (at % 4)))) | 0;
  return sum >>> 0;
}
