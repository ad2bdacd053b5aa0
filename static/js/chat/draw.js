// Draws what is known of the room: its rows, and what stands around them.

import { el, find } from "../dom.js";
import { clock, count, counted } from "../words.js";
import { restoreBar } from "./actions.js";
import { channel, isAway, log, me, page, rowContext, scroller, view } from "./page.js";
import { rowsOf } from "./rows.js";
import { drawThread } from "./thread.js";
import * as timelines from "./timeline.js";

/** What is counted for "In this page". */
export const ledger = { received: 0, resumed: 0 };

/** @type {number | undefined} */
let timer;

export function draw() {
  clearTimeout(timer);
  const now = Date.now();
  /** @type {number | null} */
  let againAt = null;
  scroller.around(() => {
    const rows = page.isFilled || page.timeline.own.length > 0 ? rowsOf(page.timeline, now, me) : [];
    againAt = view.draw(rows, rowContext(), scroller.isAtBottom);
    drawEmpty(rows.length === 0);
  });
  drawThread();
  restoreBar();
  drawFoot();
  drawPill();
  drawLedger();
  if (againAt !== null) timer = setTimeout(draw, Math.max(16, againAt - now));
}

/** @param {boolean} isEmpty */
function drawEmpty(isEmpty) {
  const old = log.querySelector("[data-empty]");
  if (!isEmpty || !page.isFilled) old?.remove();
  else if (!old) {
    const next = (channel.position?.serial ?? 0) + 1;
    log.append(
      el(
        "div",
        { class: "empty", "data-empty": true },
        el("h2", {}, "Nothing said yet"),
        el("p", {}, `You are first: your message will be #${count(next)}.`),
      ),
    );
  }
}

export function drawFoot() {
  const place = find("[data-order]");
  // A message is drawn a moment before the channel counts it as processed.
  const at = Math.max(channel.position?.serial ?? 0, timelines.newest(page.timeline));
  if (!page.isFilled || at === 0) {
    place.textContent = "";
    return;
  }
  const away = isAway();
  const behind = channel.head > at && !away ? ` of #${count(channel.head)}` : "";
  const when = away && page.line?.lostAt ? ` at ${clock(page.line.lostAt)}` : "";
  place.textContent = `In order through #${count(at)}${behind}${when}`;
}

export function drawPill() {
  if (scroller.isAtBottom) page.newBelow = 0;
  const pill = find("[data-pill]");
  pill.hidden = scroller.isAtBottom;
  find("[data-pill-text]").textContent = page.newBelow > 0 ? `${count(page.newBelow)} new below` : "Newest";
  pill.classList.toggle("calm", page.newBelow === 0);
}

function drawLedger() {
  /** @param {string} name @param {string} value */
  const put = (name, value) => {
    const place = find(`[data-ledger="${name}"]`);
    if (place.textContent !== value) place.textContent = value;
  };
  const span = timelines.shownSpan(page.timeline);
  put("range", span === null ? "–" : `#${count(span.from)} to #${count(span.to)}`);
  put("received", count(ledger.received));
  put("resumed", ledger.resumed === 0 ? "not needed" : counted(ledger.resumed, "time"));
  put("missing", count(timelines.missing(page.timeline)));
  put("doubled", count(page.timeline.doubled));
}
