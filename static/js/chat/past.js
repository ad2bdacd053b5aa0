// Reads the log backwards while one scrolls up, and of any place when one jumps there.
//
// What touches the stream's range comes from the log itself. After a jump, pages come folded from the server: what the
// log said later about their messages lies in between and is not here.

import { counted } from "../words.js";
import { ask } from "./api.js";
import { loadMembers } from "./here.js";
import { announce, channel, log, me, page, PAGE, refused, room, rowContext, scroller, view } from "./page.js";
import { reloadRooms } from "./rail.js";
import * as timelines from "./timeline.js";

/** The past is asked for this long before one has reached its end. */
const AHEAD_PX = 800;
/** More rows are put into the document this long before the end of those in it. */
const WINDOW_PX = 1200;
const AROUND = 60;

let isLoading = false;
let hasFailed = false;
/** Whether pages of the server are among what is shown. */
let isFolded = false;

const fromBottom = () => log.scrollHeight - log.clientHeight - log.scrollTop;

/** Called whenever the view moved: moves the window, and asks for what is beyond it. */
export function lookAround() {
  if (!page.isFilled) return;
  const { above, below } = view.beyond;
  if (above > 0 && scroller.fromTop < WINDOW_PX) scroller.around(() => view.move(-1, rowContext()));
  else if (below > 0 && fromBottom() < WINDOW_PX) scroller.around(() => view.move(1, rowContext()));
  if (view.beyond.above === 0) void loadPast();
  if (view.beyond.below === 0) void loadFuture();
}

async function loadPast() {
  const { timeline } = page;
  if (isLoading || !timelines.hasPast(timeline)) return;
  const isNeeded = timeline.oldest === null || scroller.fromTop < AHEAD_PX || log.scrollHeight <= log.clientHeight;
  if (!isNeeded) return;
  const { from } = /** @type {{ from: number }} */ (timelines.shownSpan(timeline));
  const added = await load(async () => {
    if (isFolded) return takeFolded({ before: from });
    const answer = await channel.history({ before: from, limit: PAGE });
    page.timeline = timelines.receivePage(page.timeline, answer, me);
    return answer.messages.filter((message) => message.event === "message").length;
  });
  if (added > 0 && scroller.fromTop > 0) announce(`${counted(added, "earlier message")}.`);
  if (!hasFailed && (scroller.fromTop < AHEAD_PX || log.scrollHeight <= log.clientHeight)) void loadPast();
}

async function loadFuture() {
  if (isLoading || !timelines.hasFuture(page.timeline) || fromBottom() > AHEAD_PX) return;
  const { to } = /** @type {{ to: number }} */ (timelines.shownSpan(page.timeline));
  await load(() => takeFolded({ after: to }));
}

/** @param {() => Promise<number>} take @returns {Promise<number>} How many messages came. */
async function load(take) {
  isLoading = true;
  try {
    const added = await take();
    hasFailed = false;
    log.setAttribute("aria-live", "off");
    page.draw();
    return added;
  } catch {
    // The client has asked again by itself already. Scrolling asks once more.
    hasFailed = true;
    return 0;
  } finally {
    isLoading = false;
  }
}

/** @param {{ before?: number, after?: number, around?: number }} place @returns {Promise<number>} */
async function takeFolded(place) {
  const answer = await ask("GET", `/chat/${room.slug}/page`, { ...place, limit: AROUND });
  page.timeline = timelines.receiveFolded(page.timeline, answer);
  isFolded = true;
  return answer.messages.length;
}

/**
 * The stream left something out, and with it what was said there about members, topic and who has seen what. The server
 * knows how that ended.
 */
function readAnew() {
  reloadRooms();
  void loadMembers();
  void load(() => takeFolded({}));
}

channel.on("discontinuity", readAnew);

/** Shows a message, wherever it is, and washes it once. @param {number} serial @returns {Promise<boolean>} */
export async function jumpTo(serial) {
  const span = page.timeline.spans.find((each) => each.from <= serial && serial <= each.to);
  if (!span) {
    try {
      await takeFolded({ around: serial });
    } catch (error) {
      refused("The message cannot be shown.", error);
      return false;
    }
  }
  page.timeline = { ...page.timeline, shown: serial };
  scroller.release();
  page.draw();
  const node = view.show((row) => row.kind === "message" && row.message.serial >= serial, rowContext());
  if (!node) return false;
  node.scrollIntoView({ block: "center" });
  scroller.release();
  node.focus({ preventScroll: true });
  node.classList.remove("flash");
  requestAnimationFrame(() => node.classList.add("flash"));
  return true;
}

/** Back to where new messages come in. */
export function showNewest() {
  page.timeline = { ...page.timeline, shown: null };
  page.newBelow = 0;
  view.follow();
  scroller.follow();
  page.draw();
}
