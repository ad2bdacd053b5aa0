// Ids of messages: ULIDs, 48 bits of time and 80 of chance, so that they sort by when they were made.
//
// Two made in the same millisecond differ by one in the random part: the order of making is the order of sorting, also
// when the clock stands still or steps back. The outbox relies on that for what it finds on the device.

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const RANDOM_LENGTH = 16;

/** A random number in [0, 1) that is as good as the platform gives. */
export function strongRandom() {
  if (typeof globalThis.crypto?.getRandomValues !== "function") return Math.random();
  const [high, low] = globalThis.crypto.getRandomValues(new Uint32Array(2));
  return ((high >>> 5) * 0x4000000 + (low >>> 6)) / 0x20000000000000;
}

/**
 * Gives a function that makes ids.
 *
 * @param {() => number} now Unix milliseconds.
 * @param {() => number} random As `Math.random`.
 * @returns {() => string}
 */
export function idMaker(now, random) {
  let lastTime = -1;
  /** @type {number[]} */
  let digits = [];
  return () => {
    const time = Math.max(lastTime, Math.floor(now()));
    if (time === lastTime) {
      let at = RANDOM_LENGTH - 1;
      while (at > 0 && digits[at] === 31) digits[at--] = 0;
      digits[at] = (digits[at] + 1) % 32;
    } else {
      lastTime = time;
      digits = Array.from({ length: RANDOM_LENGTH }, () => Math.floor(random() * 32));
    }
    let head = "";
    for (let rest = time, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) head = ALPHABET[rest % 32] + head;
    return head + digits.map((digit) => ALPHABET[digit]).join("");
  };
}
