// Ctrl K: to a room, to a person, or to a message that has these words.

import { el } from "../dom.js";
import { paintPerson } from "../shell.js";
import { clock, dayLabel } from "../words.js";
import { ask } from "./api.js";
import { openDialog } from "./dialog.js";
import { me, nameOf, people, refused, room } from "./page.js";
import { jumpTo } from "./past.js";
import { knownRooms } from "./rail.js";
import { openThread } from "./thread.js";

/** @typedef {{ node: HTMLElement, go: () => unknown }} Item */

const ASK_AFTER_MS = 200;
const EACH_MOST = 6;

/** @param {{ inRoom?: boolean }} [where] Only messages of this room. */
export function openJump({ inRoom = false } = {}) {
  /** @type {Item[]} */
  let items = [];
  let selected = 0;
  /** @type {AbortController | null} */
  let asking = null;
  /** @type {number | undefined} */
  let timer;
  const title = inRoom ? `Search in ${room.name}` : "Jump to or search";
  const list = el("ul", { class: "jump-list", role: "listbox", id: "jump-list", "aria-label": "Results" });
  const state = el("p", { class: "muted small", role: "status" }, inRoom ? "Words of a message." : "A room, a person, or words of a message.");
  const input = el("input", {
    class: "input",
    type: "text",
    role: "combobox",
    autofocus: true,
    autocomplete: "off",
    "aria-label": title,
    "aria-expanded": "false",
    "aria-controls": "jump-list",
    "aria-autocomplete": "list",
  });
  const date = el("input", { class: "input", type: "date", "aria-label": "Go to a date", max: new Date().toISOString().slice(0, 10) });
  const dateRow = inRoom ? el("label", { class: "row small muted" }, "Or go to a date", date) : null;
  const dialog = openDialog({ title, name: "jump", body: [input, state, list, dateRow] });

  /** @param {Item[]} found */
  const show = (found) => {
    items = found;
    selected = 0;
    list.replaceChildren(...items.map(({ node }) => node));
    input.setAttribute("aria-expanded", String(items.length > 0));
    mark();
  };
  const mark = () => {
    items.forEach(({ node }, index) => {
      node.id = `jump-${index}`;
      node.setAttribute("aria-selected", String(index === selected));
    });
    if (items.length > 0) input.setAttribute("aria-activedescendant", `jump-${selected}`);
    else input.removeAttribute("aria-activedescendant");
    items[selected]?.node.scrollIntoView({ block: "nearest" });
  };
  /** @param {number} index */
  const take = (index) => {
    const item = items[index];
    if (!item) return;
    dialog.close();
    void item.go();
  };

  /** @param {string} text @returns {Item[]} */
  const places = (text) => {
    if (inRoom || text === "") return [];
    const wanted = text.toLowerCase();
    const rooms = knownRooms().filter((each) => each.name.toLowerCase().includes(wanted) || each.slug.includes(wanted));
    return [
      ...rooms.slice(0, EACH_MOST).map((each) => ({
        node: option(el("b", {}, each.kind === "direct" ? each.name : `# ${each.name}`), each.topic),
        go: () => location.assign(`/chat/${each.slug}/`),
      })),
      ...people.matching(text, EACH_MOST).filter(({ client }) => client !== me).map(({ client, name }) => ({
        node: option(face(client, name), el("b", {}, name), "Write to them"),
        go: () => talkTo(client),
      })),
    ];
  };

  const search = async () => {
    const text = input.value.trim();
    asking?.abort();
    show(places(text));
    if (text.length < 2) return;
    asking = new AbortController();
    const { signal } = asking;
    state.textContent = "Searching.";
    try {
      const [found, known] = await Promise.all([
        ask("GET", "/chat/search", { q: text, room: inRoom ? room.slug : undefined }, signal),
        inRoom ? null : ask("GET", "/chat/people", { q: text }, signal),
      ]);
      if (known) people.learn(known.people);
      const messages = found.results.map((/** @type {any} */ each) => ({
        node: option(
          el("b", {}, nameOf(each.client)),
          el("span", { class: "ell grow" }, each.text),
          `${inRoom ? "" : `#${each.slug} · `}${dayLabel(each.time, Date.now())} ${clock(each.time)}`,
        ),
        go: () => (each.slug === room.slug ? goTo(each.serial, each.thread) : location.assign(`/chat/${each.slug}/#m${each.serial}`)),
      }));
      show([...places(text), ...messages]);
      state.textContent = items.length === 0 ? "Nothing found." : `${items.length} found${found.more ? ", and more: write more words" : ""}.`;
    } catch (error) {
      if (!signal.aborted) state.textContent = /** @type {Error} */ (error).message;
    }
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    show(places(input.value.trim()));
    timer = setTimeout(search, ASK_AFTER_MS);
  });
  input.addEventListener("keydown", (event) => {
    const by = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (by !== 0 && items.length > 0) {
      event.preventDefault();
      selected = (selected + by + items.length) % items.length;
      mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(selected);
    }
  });
  list.addEventListener("click", (event) => {
    const node = event.target instanceof Element ? event.target.closest("li") : null;
    take(items.findIndex((item) => item.node === node));
  });
  date.addEventListener("change", async () => {
    if (date.value === "") return;
    try {
      // The reader's day, not the server's.
      const { serial } = await ask("GET", `/chat/${room.slug}/at`, { time: new Date(`${date.value}T00:00`).getTime() });
      if (serial === null) {
        state.textContent = "Nothing was said since that day.";
        return;
      }
      dialog.close();
      goTo(serial);
    } catch (error) {
      state.textContent = /** @type {Error} */ (error).message;
    }
  });
}

/** @param {number} serial @param {number | null} [thread] */
function goTo(serial, thread = null) {
  history.replaceState(null, "", `#m${serial}`);
  void jumpTo(thread ?? serial);
  if (thread !== null) void openThread(thread);
}

/** Opens the talk with one person. @param {string} client */
export async function talkTo(client) {
  try {
    const { slug } = await ask("POST", "/chat/direct", { client });
    location.assign(`/chat/${slug}/`);
  } catch (error) {
    refused("The talk was not opened.", error);
  }
}

/** @param {...(Node | string)} parts */
function option(...parts) {
  const last = parts[parts.length - 1];
  const rest = parts.slice(0, -1);
  return el("li", { role: "option" }, ...rest, typeof last === "string" ? el("span", { class: "muted small ell" }, last) : last);
}

/** @param {string} client @param {string} name */
function face(client, name) {
  const node = el("span", { class: "av s", "aria-hidden": "true" });
  paintPerson(node, client, name);
  return node;
}
