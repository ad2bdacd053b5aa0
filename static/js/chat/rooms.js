// Rooms: making one, finding one, joining and leaving, and what a room is called.

import { el, icon } from "../dom.js";
import { ApiError, ask } from "./api.js";
import { confirm, labelled, openDialog } from "./dialog.js";
import { isModerator, refused, room } from "./page.js";
import { knownRooms, reloadRooms } from "./rail.js";

/** A form in a dialog that says what the server did not like, beside what was typed. */
/** @param {string} title @param {string} name @param {string} yes @param {Node[]} fields @param {() => Promise<unknown>} save */
export function openForm(title, name, yes, fields, save) {
  const error = el("p", { class: "err", role: "alert" });
  const go = el("button", { class: "btn primary", type: "submit" }, yes);
  const form = el("form", { class: "stack", novalidate: true }, ...fields, error, el("div", { class: "dialog-foot" }, go));
  const dialog = openDialog({ title, name, body: [form] });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      await save();
      dialog.close();
    } catch (reason) {
      const { message, remedy } = /** @type {import("./api.js").ApiError} */ (reason);
      error.textContent = `${message} ${remedy ?? ""}`.trim();
    } finally {
      go.disabled = false;
    }
  });
  return dialog;
}

/** Rooms that are there, and the way to a new one. */
export function openRooms() {
  const rooms = knownRooms().filter((each) => each.kind !== "direct");
  const list = el(
    "ul",
    { class: "plain-list" },
    ...rooms.map((each) => {
      const link = el("a", { href: `/chat/${each.slug}/`, class: "grow" }, el("b", {}, each.name), el("span", { class: "muted small ell" }, each.topic || "No topic yet."));
      const join = el("button", { class: "btn sm", type: "button" }, "Join");
      join.addEventListener("click", async () => {
        try {
          await ask("POST", `/chat/${each.slug}/join`);
          location.assign(`/chat/${each.slug}/`);
        } catch (error) {
          dialog.close();
          refused("You did not join.", error);
        }
      });
      return el("li", {}, icon(each.kind === "private" ? "lock" : "room"), link, each.role === null ? join : el("span", { class: "badge" }, each.role));
    }),
  );
  const make = el("button", { class: "btn primary", type: "button", autofocus: true }, "Create a room");
  make.addEventListener("click", () => {
    dialog.close();
    createRoom();
  });
  const dialog = openDialog({ title: "Rooms", name: "rooms", body: [make, list] });
}

/** A room's name, or why it is none. @param {HTMLInputElement} field */
function nameIn(field) {
  const name = field.value.trim();
  if (name !== "") return name;
  field.focus();
  throw new ApiError("bad_frame", "A room needs a name.", "Up to 80 characters.");
}

function createRoom() {
  const name = el("input", { class: "input", maxlength: "80", autocomplete: "off", autofocus: true });
  const topic = el("input", { class: "input", maxlength: "200", autocomplete: "off" });
  const kind = el("select", { class: "input" }, el("option", { value: "public" }, "Public: everybody reads and writes"), el("option", { value: "private" }, "Private: members only"));
  openForm("Create a room", "create", "Create", [labelled("Name", name), labelled("Topic", topic), labelled("Who may enter", kind)], async () => {
    const made = await ask("POST", "/chat/rooms", { name: nameIn(name), topic: topic.value.trim(), kind: kind.value });
    location.assign(`/chat/${made.slug}/`);
  });
}

export function editRoom() {
  const name = el("input", { class: "input", maxlength: "80", autocomplete: "off", autofocus: true, value: room.name });
  const topic = el("input", { class: "input", maxlength: "200", autocomplete: "off", value: room.topic ?? "" });
  openForm("Name and topic", "edit-room", "Save", [labelled("Name", name), labelled("Topic", topic)], async () => {
    await ask("PATCH", `/chat/${room.slug}/room`, { name: nameIn(name), topic: topic.value.trim() });
    reloadRooms();
  });
}

export async function joinRoom() {
  try {
    await ask("POST", `/chat/${room.slug}/join`);
    reloadRooms();
  } catch (error) {
    refused("You did not join.", error);
  }
}

export function leaveRoom() {
  confirm({
    title: `Leave ${room.name}?`,
    text: room.kind === "private" ? "You can come back only when somebody invites you." : "You can join again at any time.",
    yes: "Leave",
    onYes: async () => {
      try {
        await ask("POST", `/chat/${room.slug}/leave`);
        if (room.kind === "private") location.assign("/chat/");
        else reloadRooms();
      } catch (error) {
        refused("You did not leave.", error);
      }
    },
  });
}

/** What one can do with this room, by one's role. */
export function roomActions() {
  if (room.kind === "direct") return [];
  const isMember = (room.role ?? null) !== null;
  return [
    ...(isMember ? [] : [{ label: "Join", run: joinRoom }]),
    ...(isModerator() ? [{ label: "Name and topic", run: editRoom }] : []),
    ...(isMember ? [{ label: "Leave", isDanger: true, run: leaveRoom }] : []),
  ];
}
