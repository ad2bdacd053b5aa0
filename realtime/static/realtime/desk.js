// @ts-check
/// What the admin's theme (django-unfold) leaves out for who uses the keyboard or a screen reader: a main landmark, names
/// of scrolling regions, and buttons that can be reached. For `UNFOLD["SCRIPTS"]`.

/** Names of what the theme shows by an icon alone. */
const NAMES = new Map([
  ["dock_to_right", "Navigation"],
  ["search", "Search"],
  ["close", "Close"],
]);

/** @param {Element} node */
function iconOf(node) {
  const icon = node.matches(".material-symbols-outlined") ? node : node.querySelector(".material-symbols-outlined");
  return icon?.textContent?.trim() ?? "";
}

/** What is said of an element, without the names of its icons. @param {Element} node */
function wordsOf(node) {
  const copy = /** @type {Element} */ (node.cloneNode(true));
  for (const icon of copy.querySelectorAll(".material-symbols-outlined")) icon.remove();
  return node.matches(".material-symbols-outlined") ? "" : (copy.textContent ?? "").replace(/\s+/g, " ").trim();
}

/** The theme listens to clicks on it; now keys do the same. @param {HTMLElement} node */
function makeButton(node) {
  node.setAttribute("role", "button");
  node.tabIndex = 0;
  node.addEventListener("keydown", (event) => {
    if (event.target !== node || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    node.click();
  });
}

// Before the theme's own listeners, which make the scrolling regions: this script stands in the head.
document.addEventListener("DOMContentLoaded", () => {
  const main = document.querySelector("#main") ?? document.querySelector("#page > div");
  main?.setAttribute("role", "main");
  for (const [at, region] of document.querySelectorAll("[data-simplebar]").entries()) {
    const name = region.id === "nav-sidebar-apps" ? "Sections" : region.querySelector("table") ? "Rows" : `Scrolling ${at}`;
    region.setAttribute("data-simplebar-aria-label", name);
  }
  for (const node of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[x-on\\:click]"))) {
    if (!node.matches("a[href], button, input, select, textarea, label, summary, [tabindex]")) makeButton(node);
  }
  for (const node of document.querySelectorAll("a, button, [role=button]")) {
    if (wordsOf(node) !== "") continue;
    const isTheme = (node.getAttribute("x-on:click") ?? "").startsWith("openTheme");
    const name = isTheme ? "Theme" : (NAMES.get(iconOf(node)) ?? node.getAttribute("title"));
    if (name && !node.hasAttribute("aria-label")) node.setAttribute("aria-label", name);
  }
  // An icon is a word in a font: read out, "home Now".
  for (const icon of document.querySelectorAll(".material-symbols-outlined:not([role=button])")) {
    icon.setAttribute("aria-hidden", "true");
  }
});
