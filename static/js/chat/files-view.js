// Files of a message: pictures as pictures, of their true size before they are there, the rest as cards.

import { el, icon } from "../dom.js";
import { bytes } from "../words.js";

/** @typedef {import("./fold.js").FileInfo} FileInfo */

const PICTURES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);
const WIDE_PX = 320;
const HIGH_PX = 240;

/** @param {FileInfo} file */
export const addressOf = ({ id, name }) => `/chat/files/${encodeURIComponent(id)}/${encodeURIComponent(name)}`;

/** @param {readonly FileInfo[]} files */
export function filesNode(files) {
  if (files.length === 0) return null;
  return el("div", { class: "files" }, ...files.map((file) => (PICTURES.has(file.type) ? picture(file) : card(file))));
}

/** @param {FileInfo} file */
function picture(file) {
  const { width = WIDE_PX, height = HIGH_PX } = file;
  const scale = Math.min(1, WIDE_PX / width, HIGH_PX / height);
  const size = { width: String(Math.max(1, Math.round(width * scale))), height: String(Math.max(1, Math.round(height * scale))) };
  const image = el("img", { src: addressOf(file), alt: file.name, loading: "lazy", decoding: "async", ...size });
  return el("a", { class: "photo", href: addressOf(file), "data-picture": file.name }, image);
}

/** @param {FileInfo} file */
function card(file) {
  const kind = (file.name.includes(".") ? file.name.split(".").pop() : file.type)?.toUpperCase() ?? "";
  const facts = el("span", { class: "faint small" }, `${kind.slice(0, 8)} · ${bytes(file.size)}`);
  return el("a", { class: "filec", href: addressOf(file), download: file.name }, icon("file", "l"), el("span", {}, el("b", {}, file.name), facts));
}
