// Files on their way into a message: chosen, pasted or dropped; uploaded at once, each with its progress. One that failed
// stays, with what to do, and the text with it.

import { el, find, icon } from "../dom.js";
import { bytes } from "../words.js";
import { answerOf, csrfToken } from "./api.js";
import { announce } from "./page.js";

/** @typedef {import("./fold.js").FileInfo} FileInfo */
/** @typedef {{ file: File, state: "going" | "there" | "failed", done: number, why: string, info: FileInfo | null, request: XMLHttpRequest | null, node: HTMLElement }} Going */

export const FILES_MOST = 10;
/** As the server has it: refused here before a byte is sent in vain. */
const BYTES_MOST = 10 * 1024 * 1024;

export class Attachments {
  /** @type {Going[]} */
  #files = [];
  #url;
  #list;

  /**
   * @param {object} parts
   * @param {string} parts.url
   * @param {HTMLElement} parts.list
   * @param {HTMLInputElement} parts.input
   * @param {HTMLElement} parts.opener
   * @param {HTMLTextAreaElement} parts.field
   * @param {HTMLElement} parts.dropZone
   */
  constructor({ url, list, input, opener, field, dropZone }) {
    this.#url = url;
    this.#list = list;
    opener.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add([...(input.files ?? [])]);
      input.value = "";
    });
    field.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault();
      this.add(files);
    });
    dropZone.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      dropZone.classList.add("dropping");
    });
    for (const end of ["dragleave", "drop"]) dropZone.addEventListener(end, () => dropZone.classList.remove("dropping"));
    dropZone.addEventListener("drop", (event) => {
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault();
      this.add(files);
      field.focus();
    });
    addEventListener("beforeunload", (event) => {
      // The text outlives the page; a file that is not uploaded does not.
      if (this.#files.some((each) => each.state !== "there")) event.preventDefault();
    });
  }

  /** Whether a message may go with what is here. @returns {"none" | "ready" | "wait"} */
  get state() {
    if (this.#files.length === 0) return "none";
    return this.#files.every((each) => each.state === "there") ? "ready" : "wait";
  }

  /** Why it has to wait. */
  get reason() {
    const failed = this.#files.filter((each) => each.state === "failed").length;
    if (failed > 0) return `${failed === 1 ? "A file is" : `${failed} files are`} not uploaded. Try again, or remove ${failed === 1 ? "it" : "them"}.`;
    return "Uploading. Send again when it is done.";
  }

  /** The files for a message; none are left. @returns {FileInfo[]} */
  take() {
    const infos = this.#files.map((each) => each.info).filter((info) => info !== null);
    for (const { node } of this.#files) node.remove();
    this.#files = [];
    this.#list.hidden = true;
    return infos;
  }

  /** @param {File[]} files */
  add(files) {
    for (const file of files.slice(0, FILES_MOST - this.#files.length)) {
      const going = /** @type {Going} */ ({ file, state: "going", done: 0, why: "", info: null, request: null, node: el("li") });
      this.#files.push(going);
      this.#list.append(going.node);
      if (file.size > BYTES_MOST) this.#fail(going, `larger than ${bytes(BYTES_MOST)}`);
      else this.#upload(going);
    }
    this.#list.hidden = this.#files.length === 0;
  }

  /** @param {Going} going */
  #upload(going) {
    const request = new XMLHttpRequest();
    Object.assign(going, { state: "going", done: 0, request });
    this.#draw(going);
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable || going.state !== "going") return;
      going.done = event.loaded / event.total;
      const bar = going.node.querySelector("progress");
      if (bar) bar.value = going.done;
    });
    request.addEventListener("load", () => {
      try {
        going.info = answerOf(request.status, request.responseText).file;
        going.state = "there";
        this.#draw(going);
        announce(`${going.file.name} is uploaded.`);
      } catch (error) {
        this.#fail(going, /** @type {Error} */ (error).message.replace(/\.$/, ""));
      }
    });
    request.addEventListener("error", () => this.#fail(going, "the server cannot be reached"));
    const form = new FormData();
    form.append("file", going.file, going.file.name);
    request.open("POST", this.#url);
    request.setRequestHeader("X-CSRFToken", csrfToken());
    request.setRequestHeader("Accept", "application/json");
    request.send(form);
  }

  /** @param {Going} going @param {string} why */
  #fail(going, why) {
    Object.assign(going, { state: "failed", why });
    this.#draw(going);
    announce(`${going.file.name} is not uploaded: ${why}.`);
  }

  /** @param {Going} going */
  #draw(going) {
    const { file, state, why, done, node } = going;
    const had = node.contains(document.activeElement);
    const remove = el("button", { class: "btn quiet icon sm", type: "button", "aria-label": `Remove ${file.name}` }, icon("close", "s"));
    remove.addEventListener("click", () => this.#remove(going));
    const again = el("button", { class: "link", type: "button" }, "Try again");
    again.addEventListener("click", () => this.#upload(going));
    const note = state === "failed" ? `Not uploaded: ${why}.` : bytes(file.size);
    node.className = `going ${state}`;
    node.replaceChildren(
      icon("file"),
      el("span", { class: "grow" }, el("b", { class: "ell" }, file.name), el("span", { class: "small" }, note)),
      ...(state === "going" ? [el("progress", { max: "1", value: String(done), "aria-label": `Uploading ${file.name}` })] : []),
      ...(state === "failed" ? [again] : []),
      remove,
    );
    if (had) node.querySelector("button")?.focus();
  }

  /** @param {Going} going */
  #remove(going) {
    going.request?.abort();
    going.node.remove();
    this.#files = this.#files.filter((each) => each !== going);
    this.#list.hidden = this.#files.length === 0;
    find("#text").focus();
  }
}
