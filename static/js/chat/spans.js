// Which serials of the log are known: ranges without a hole, in order. Pure.

/** @typedef {{ readonly from: number, readonly to: number }} Span */

/**
 * With `from` to `to` known too. Ranges that touch become one.
 *
 * @param {readonly Span[]} spans
 * @param {number} from
 * @param {number} to
 * @returns {readonly Span[]}
 */
export function addSpan(spans, from, to) {
  if (to < from) return spans;
  const apart = spans.filter((span) => span.to + 1 < from || span.from > to + 1);
  const near = spans.filter((span) => !(span.to + 1 < from || span.from > to + 1));
  const whole = { from: Math.min(from, ...near.map((span) => span.from)), to: Math.max(to, ...near.map((span) => span.to)) };
  return [...apart, whole].sort((a, b) => a.from - b.from);
}

/** The range that `serial` lies in. @param {readonly Span[]} spans @param {number} serial */
export const spanAt = (spans, serial) => spans.find((span) => span.from <= serial && serial <= span.to) ?? null;

/** Without what is older than `serial`. @param {readonly Span[]} spans @param {number} serial @returns {readonly Span[]} */
export function cutBefore(spans, serial) {
  return spans.filter((span) => span.to >= serial).map((span) => ({ from: Math.max(serial, span.from), to: span.to }));
}

/** How many serials from `from` on lie in holes between ranges. @param {readonly Span[]} spans @param {number} from */
export function holes(spans, from) {
  const later = cutBefore(spans, from);
  return later.reduce((sum, span, index) => sum + (index === 0 ? 0 : span.from - later[index - 1].to - 1), 0);
}
