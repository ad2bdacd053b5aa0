// A picture in full size, over the page.

import { el } from "../dom.js";
import { openDialog } from "./dialog.js";

/** @param {HTMLElement} list */
export function openPictures(list) {
  list.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[data-picture]") : null;
    if (!(link instanceof HTMLAnchorElement) || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const name = link.dataset.picture ?? "";
    openDialog({
      title: name,
      name: "picture",
      body: [el("img", { class: "full", src: link.href, alt: name }), el("p", {}, el("a", { href: link.href, download: name }, "Download"))],
    });
  });
}
