// Members of the room, what moderators do, and the record of what they did.

import { el } from "../dom.js";
import { clock, dayLabel, fullTime } from "../words.js";
import { ask } from "./api.js";
import { auditText } from "./copy.js";
import { confirm, labelled, openDialog, openMenu } from "./dialog.js";
import { knownMembers, loadMembers, portrait, presenceOf } from "./here.js";
import { talkTo } from "./jump.js";
import { isModerator, me, nameOf, people, refused, room } from "./page.js";
import { openForm } from "./rooms.js";
import { countDevices } from "./whereabouts.js";

/** @typedef {import("./here.js").Member} Member */

const RANKS = ["member", "moderator", "owner"];
const MUTES = /** @type {const} */ ([[10, "10 minutes"], [60, "an hour"], [1440, "a day"]]);

export async function openMembers() {
  await loadMembers();
  const list = el("ul", { class: "plain-list" });
  const invite = el("button", { class: "btn primary", type: "button" }, "Invite somebody");
  const canInvite = room.kind !== "direct" && (room.kind === "public" || (room.role ?? null) !== null);
  const dialog = openDialog({ title: `Members of ${room.name}`, name: "members", body: [canInvite ? invite : null, list] });
  invite.addEventListener("click", () => {
    dialog.close();
    openInvite();
  });
  // By client. They outlive what is drawn: the focus goes back to one when the menu that it opened is closed.
  /** @type {Map<string, HTMLButtonElement>} */
  const actions = new Map();
  // Who comes and goes, and on how many devices, is told while one looks.
  const look = () => (list.contains(document.activeElement) ? undefined : draw());
  const draw = () => {
    // Who works by keyboard goes on where they were.
    const had = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.client : undefined;
    list.replaceChildren(...knownMembers().map((member) => line(member, actions, draw)));
    if (had !== undefined) actions.get(had)?.focus();
  };
  addEventListener("whereabouts", look);
  dialog.addEventListener("close", () => removeEventListener("whereabouts", look));
  countDevices();
  draw();
}

/** @param {Member} member @param {Map<string, HTMLButtonElement>} actions @param {() => void} redraw */
function line(member, actions, redraw) {
  const { client, name, role, muted_until: until } = member;
  const { dot, text } = presenceOf(client);
  const more = actions.get(client) ?? el("button", { class: "btn sm", type: "button", "data-client": client }, "Actions");
  const items = client === me ? [] : actionsFor(member, redraw);
  more.setAttribute("aria-label", `Actions for ${name}`);
  more.onclick = () => openMenu(more, `Actions for ${name}`, items);
  actions.set(client, more);
  const muted = until !== null && until > Date.now() ? el("span", { class: "badge slow" }, `muted until ${clock(until)}`) : null;
  const words = el("span", { class: "grow two" }, el("span", { class: "ell" }, name), el("span", { class: "muted small" }, text));
  return el("li", {}, portrait(client, name, dot), words, muted, el("span", { class: "badge" }, role ?? "no member"), items.length > 0 ? more : null);
}

/** @param {Member} member @param {() => void} redraw */
function actionsFor({ client, name, role, muted_until: until }, redraw) {
  /** @param {string} what @param {string} path @param {Record<string, unknown>} [body] */
  const act = async (what, path, body = {}) => {
    try {
      await ask("POST", `/chat/${room.slug}/${path}`, { client, ...body });
      await loadMembers();
      redraw();
    } catch (error) {
      document.querySelector("dialog[open]")?.dispatchEvent(new Event("cancel"));
      for (const dialog of document.querySelectorAll("dialog")) dialog.close();
      refused(what, error);
    }
  };
  const write = { label: `Write to ${name}`, run: () => talkTo(client) };
  // Who has at least this rank cannot be moderated by us.
  const isBelow = room.role === "owner" || RANKS.indexOf(role ?? "member") < RANKS.indexOf(room.role ?? "member");
  if (!isModerator() || !isBelow) return [write];
  const isMuted = until !== null && until > Date.now();
  return [
    write,
    ...(isMuted
      ? [{ label: "Let them write again", run: () => act(`${name} is still muted.`, "unmute") }]
      : MUTES.map(([minutes, words]) => ({ label: `Mute for ${words}`, run: () => act(`${name} was not muted.`, "mute", { minutes }) }))),
    ...(room.role === "owner" && role !== null
      ? RANKS.filter((each) => each !== role).map((each) => ({ label: `Make ${each}`, run: () => act("The role was not changed.", "role", { role: each }) }))
      : []),
    ...(role === null
      ? []
      : [
          {
            label: "Remove from the room",
            isDanger: true,
            run: () =>
              confirm({
                title: `Remove ${name} from ${room.name}?`,
                text: "What they wrote stays. The removal is written into the room’s record.",
                yes: "Remove",
                onYes: () => act(`${name} was not removed.`, "remove"),
              }),
          },
        ]),
  ];
}

export function openInvite() {
  const options = el("datalist", { id: "people-known" });
  const field = el("input", { class: "input", list: "people-known", autocomplete: "off", autofocus: true });
  field.addEventListener("input", async () => {
    try {
      const answer = await ask("GET", "/chat/people", { q: field.value });
      people.learn(answer.people);
      options.replaceChildren(...answer.people.map((/** @type {any} */ each) => el("option", { value: each.client }, each.name)));
    } catch {
      // A name can be typed without help.
    }
  });
  openForm(`Invite to ${room.name}`, "invite", "Invite", [labelled("User name", field), options], async () => {
    await ask("POST", `/chat/${room.slug}/invite`, { client: field.value.trim().replace(/^@/, "") });
    await loadMembers();
  });
}

/** The record: who did what to whom, newest first. */
export async function openAudit() {
  const list = el("ol", { class: "plain-list record" });
  const older = el("button", { class: "btn sm", type: "button" }, "Older");
  const state = el("p", { class: "muted small", role: "status" });
  openDialog({ title: `Record of ${room.name}`, name: "audit", body: [state, list, older] });
  /** @type {number | undefined} */
  let before;
  const load = async () => {
    try {
      const { entries, more } = await ask("GET", `/chat/${room.slug}/audit`, { before });
      for (const { time, by, action, about, detail } of entries) {
        const whom = people.knows(about) ? nameOf(about) : about;
        const words = el("span", { class: "grow" }, el("b", {}, nameOf(by)), ` ${auditText(action, whom, detail)}`);
        list.append(el("li", {}, words, el("time", { class: "muted small", datetime: new Date(time).toISOString(), title: fullTime(time) }, `${dayLabel(time, Date.now())} ${clock(time)}`)));
      }
      before = entries[entries.length - 1]?.id;
      older.hidden = !more;
      state.textContent = list.children.length === 0 ? "Nothing has been done yet." : "";
    } catch (error) {
      older.hidden = true;
      state.textContent = /** @type {Error} */ (error).message;
    }
  };
  older.addEventListener("click", load);
  await load();
}
