// What the parts of a room's page share: who we are, the channel, what is known of the room, and how to say something.

import { connect } from "../connect.js";
import { el, find, icon, pageData } from "../dom.js";
import { deviceStorage, RoomMemory } from "./drafts.js";
import { People } from "./people.js";
import { Scroller } from "./scroller.js";
import { emptyTimeline } from "./timeline.js";
import { TimelineView } from "./timeline-view.js";

/** @typedef {import("../../seriatim/line-state.js").LineState} LineState */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./timeline-view.js").RowContext} RowContext */

/** Messages that a page of the log has. */
export const PAGE = 50;

export const data = pageData();
export const app = find("[data-room]");
export const log = find("[data-log]");
/** @type {string} */
export const me = data.client;
/** @type {{ slug: string, name: string, channel: string, topic?: string, kind?: string, role?: string | null, quiet?: boolean, muted_until?: number | null }} */
export const room = data.room;
export const memory = new RoomMemory(me, deviceStorage());
export const people = new People(data.names, app.dataset.namesUrl ?? "", () => page.draw());
export const scroller = new Scroller(log);
export const view = new TimelineView(find("[data-list]"));
export const client = connect({ tokenUrl: app.dataset.tokenUrl ?? "", clientId: me, keepsUnsent: true });
export const channel = client.channel(room.channel, { from: { rewind: PAGE }, presence: true });

/** What changes. */
export const page = {
  timeline: /** @type {Timeline} */ (emptyTimeline()),
  /** The newest page of the room is here. */
  isFilled: false,
  newBelow: 0,
  line: /** @type {LineState | null} */ (null),
  /** Draws what is there now; room.js puts its own here. */
  draw: () => {},
};

/** @param {string | null} who */
export const nameOf = (who) => people.nameOf(who);

/** Whether the line is away, so that what is known is of the past. */
export const isAway = () => page.line !== null && ["offline", "connecting", "waiting", "signed_out", "stopped"].includes(page.line.name);

/** Whether we may mute, remove and delete here. */
export const isModerator = () => room.role === "owner" || room.role === "moderator";

/** @returns {RowContext} */
export function rowContext(prefix = "m") {
  return { me, now: Date.now(), retentionDays: data.retentionDays, prefix, nameOf };
}

/** For those who listen. @param {string} sentence */
export function announce(sentence) {
  find("[data-announce]").textContent = sentence;
}

/** A sentence above the messages, until it is closed. @param {string} kind @param {string} strong @param {string} text */
export function notice(kind, strong, text) {
  const close = el("button", { class: "link", type: "button" }, "Close");
  const banner = el("div", { class: `banner ${kind}` }, icon("warn"), el("span", { class: "grow" }, el("b", {}, strong), text), close);
  close.addEventListener("click", () => {
    banner.remove();
    find("#text").focus();
  });
  find("[data-notice-banner]").replaceChildren(banner);
}

/** What did not work, in the server's words. @param {string} what @param {unknown} error */
export function refused(what, error) {
  const { message = "The server did not take it.", remedy = "" } = /** @type {{ message?: string, remedy?: string }} */ (error ?? {});
  notice("danger", `${what}`, ` ${message} ${remedy}`.trimEnd());
}
