// Times and numbers as the pages write them. Pure.

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const CLOCK_S = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const WHOLE = new Intl.NumberFormat("en-GB");
const WEEKDAY = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long" });
const WITH_YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "medium" });

/** 09:41 @param {number} ms */
export const clock = (ms) => CLOCK.format(ms);

/** 09:41:07 @param {number} ms */
export const clockWithSeconds = (ms) => CLOCK_S.format(ms);

/** Sunday 22 November 2026 at 09:41:07 @param {number} ms */
export const fullTime = (ms) => FULL.format(ms);

/** 4,167 @param {number} value */
export const count = (value) => WHOLE.format(value);

/** `1 message`, `37 messages`. @param {number} value @param {string} one @param {string} [many] */
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** 212 KB @param {number} size */
export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1_000_000 ? `${Math.round(size / 1000)} KB` : `${(size / 1_000_000).toFixed(1)} MB`;
}

/** Which day a moment belongs to, in the reader's time zone. @param {number} ms */
export function dayKey(ms) {
  const day = new Date(ms);
  return `${day.getFullYear()}-${day.getMonth() + 1}-${day.getDate()}`;
}

/** Today, Yesterday, Monday 16 November, 3 January 2025. @param {number} ms @param {number} now */
export function dayLabel(ms, now) {
  const key = dayKey(ms);
  if (key === dayKey(now)) return "Today";
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (key === dayKey(yesterday.getTime())) return "Yesterday";
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return (sameYear ? WEEKDAY : WITH_YEAR).format(ms).replace(",", "");
}

/** 18 ms, 2.4 s @param {number} ms */
export const latency = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** 8 s, 4 min: how long until or since, rounded up. @param {number} ms */
export function span(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}

/** The first two letters of a name, for the place of a portrait. @param {string} name */
export function initials(name) {
  const words = name.trim().split(/\s+/);
  const letters = words.length > 1 ? [...words[0]][0] + [...words[words.length - 1]][0] : [...name.trim()].slice(0, 2).join("");
  return letters.toUpperCase();
}

/** One of six colours, always the same for a client id. @param {string} client */
export function personColour(client) {
  let hash = 0;
  for (const letter of client) hash = (hash * 29 + (letter.codePointAt(0) ?? 0)) % 1_000_003;
  return (hash % 6) + 1;
}
