// Edit mode: widgets are added, changed, moved by keyboard and pointer, removed; saved all together or not at all.

import { el, find } from "../dom.js";
import { send } from "./send.js";

/** @typedef {import("./widgets.js").Described} Described */

const SPANS = [2, 3, 4, 5, 6, 8, 9, 12];

/** @param {{ data: any, grid: HTMLElement, app: HTMLElement, say: (sentence: string) => void }} page */
export function edit({ data, grid, app, say }) {
  const url = `/dashboards/api/of/${data.slug}`;
  /** @type {Map<HTMLElement, Described>} */
  const widgets = new Map([...grid.querySelectorAll("[data-widget]")].map((card, index) => [/** @type {HTMLElement} */ (card), structuredClone(data.widgets[index])]));
  const bar = find("[data-edit-bar]");
  const error = find("[data-edit-error]");
  const name = /** @type {HTMLInputElement} */ (find("[data-edit-name]"));
  const isPublic = /** @type {HTMLInputElement} */ (find("[data-edit-public]"));
  const deltas = /** @type {HTMLInputElement} */ (find("[data-edit-deltas]"));
  const dialog = /** @type {HTMLDialogElement} */ (find("[data-widget-dialog]"));
  const form = /** @type {HTMLFormElement} */ (find("form", dialog));
  /** @type {HTMLElement | null} The card that the dialog is about; null: a new one. */
  let chosen = null;
  /** @type {HTMLElement | null} */
  let dragged = null;

  /** @param {string} field */
  const input = (field) => /** @type {HTMLInputElement} */ (find(`[name=${field}]`, form));

  function begin() {
    app.dataset.editing = "";
    bar.hidden = false;
    for (const card of widgets.keys()) dress(card);
    name.focus();
  }

  /** @param {HTMLElement} card */
  function dress(card) {
    if (card.querySelector("[data-tools]")) return;
    const title = widgets.get(card)?.title ?? "";
    /** @param {string} label @param {string} text @param {() => void} act */
    const tool = (label, text, act) => {
      const button = el("button", { class: "btn sm", type: "button", "aria-label": `${label}: ${title}` }, text);
      button.addEventListener("click", act);
      return button;
    };
    const tools = el("div", { class: "row wrap tools", "data-tools": true });
    tools.append(
      tool("Move earlier", "←", () => move(card, -1)),
      tool("Move later", "→", () => move(card, 1)),
      tool("Change", "Change", () => open(card)),
      tool("Remove", "Remove", () => {
        widgets.delete(card);
        card.remove();
        say(`${title} is removed once you save.`);
        find("[data-add]").focus();
      }),
    );
    card.prepend(tools);
    card.draggable = true;
    card.addEventListener("dragstart", () => (dragged = card));
    card.addEventListener("dragover", (event) => event.preventDefault());
    card.addEventListener("drop", (event) => {
      event.preventDefault();
      if (dragged === null || dragged === card) return;
      const cards = [...grid.children];
      if (cards.indexOf(dragged) < cards.indexOf(card)) card.after(dragged);
      else card.before(dragged);
    });
  }

  /** @param {HTMLElement} card @param {number} step */
  function move(card, step) {
    const other = step < 0 ? card.previousElementSibling : card.nextElementSibling;
    if (other === null) return;
    const focused = document.activeElement;
    if (step < 0) other.before(card);
    else other.after(card);
    if (focused instanceof HTMLElement) focused.focus();
    say(`${widgets.get(card)?.title} is number ${[...grid.children].indexOf(card) + 1} of ${grid.children.length}.`);
  }

  /** @param {HTMLElement | null} card */
  function open(card) {
    chosen = card;
    const widget = (card && widgets.get(card)) ?? { kind: "line", title: "", channel: data.widgets[0]?.channel ?? "", field: "", options: {}, span: 6 };
    for (const field of /** @type {const} */ (["kind", "title", "channel", "field", "span"])) input(field).value = String(widget[field]);
    input("options").value = JSON.stringify(widget.options, null, 1);
    find("[data-dialog-error]").textContent = "";
    dialog.showModal();
  }

  find("[data-edit]").addEventListener("click", begin);
  find("[data-add]").addEventListener("click", () => open(null));
  find("[data-dialog-cancel]").addEventListener("click", () => dialog.close());
  find("[data-edit-cancel]").addEventListener("click", () => location.replace(location.pathname));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    let options;
    try {
      options = JSON.parse(input("options").value || "{}");
    } catch {
      find("[data-dialog-error]").textContent = "The options are no JSON.";
      return;
    }
    const widget = { kind: input("kind").value, title: input("title").value, channel: input("channel").value.trim(), field: input("field").value.trim(), options, span: Number(input("span").value) };
    if (chosen === null) {
      const card = el("section", { class: `w n${widget.span}`, "data-widget": "new" }, el("header", {}, el("h2", {}, widget.title)), el("p", { class: "muted" }, "It is drawn once you save."));
      grid.append(card);
      widgets.set(card, widget);
      dress(card);
    } else {
      widgets.set(chosen, widget);
      find("h2", chosen).textContent = widget.title;
      for (const span of SPANS) chosen.classList.toggle(`n${span}`, span === widget.span);
    }
    dialog.close();
  });

  find("[data-save]").addEventListener("click", async () => {
    error.textContent = "";
    try {
      const ordered = [...grid.children].map((card) => widgets.get(/** @type {HTMLElement} */ (card)));
      await send(url, "PUT", { name: name.value, public: isPublic.checked, deltas: deltas.checked, widgets: ordered });
      location.replace(location.pathname);
    } catch (refused) {
      error.textContent = refused instanceof Error ? refused.message : String(refused);
    }
  });
  find("[data-delete]").addEventListener("click", async () => {
    const button = find("[data-delete]");
    if (button.dataset.sure === undefined) {
      button.dataset.sure = "";
      button.textContent = "Delete it for ever";
      return;
    }
    try {
      location.assign((await send(url, "DELETE")).url);
    } catch (refused) {
      error.textContent = refused instanceof Error ? refused.message : String(refused);
    }
  });

  const link = /** @type {HTMLInputElement} */ (find("[data-share-link]"));
  const word = find("[data-share-word]");
  /** @param {"POST" | "DELETE"} method */
  async function share(method) {
    try {
      const answer = await send(`${url}/share`, method);
      link.value = answer.url ?? "";
      link.hidden = answer.url === undefined;
      word.textContent = answer.url ? "Whoever has this link sees this dashboard, without logging in." : "All links are taken back; who came by them is disconnected.";
      if (answer.url) link.select();
    } catch (refused) {
      word.textContent = refused instanceof Error ? refused.message : String(refused);
    }
  }
  find("[data-share-new]").addEventListener("click", () => share("POST"));
  find("[data-share-revoke]").addEventListener("click", () => share("DELETE"));
  if (location.hash === "#edit") begin();
}
