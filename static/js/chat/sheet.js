// Parts of the page that are beside the rest on a large screen, and over it on a small one.

/**
 * A part of the page that opens over the rest on a small screen, and is simply there on a large one.
 *
 * @param {object} parts
 * @param {HTMLElement} parts.sheet
 * @param {HTMLElement} parts.opener
 * @param {HTMLElement} parts.closer
 * @param {HTMLElement[]} parts.rest Out of reach while it is open.
 * @param {string} parts.bodyClass
 * @returns {{ set: (open: boolean) => void }}
 */
export function sheet({ sheet, opener, closer, rest, bodyClass }) {
  const role = sheet.getAttribute("role") ?? "region";
  const isOpen = () => document.body.classList.contains(bodyClass);
  /** @param {boolean} open */
  const set = (open) => {
    if (open === isOpen()) return;
    document.body.classList.toggle(bodyClass, open);
    opener.setAttribute("aria-expanded", String(open));
    for (const each of rest) each.inert = open;
    // Over the rest it is a dialog; beside it, what its element says.
    sheet.setAttribute("role", open ? "dialog" : role);
    if (open) sheet.setAttribute("aria-modal", "true");
    else sheet.removeAttribute("aria-modal");
    (open ? closer : opener).focus();
  };
  opener.addEventListener("click", () => set(!isOpen()));
  closer.addEventListener("click", () => set(false));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen() && !event.defaultPrevented) {
      event.preventDefault();
      set(false);
    }
  });
  addEventListener("click", (event) => {
    // The veil is the body's own.
    // What is gone already, or lies in a dialog over it, is not outside.
    const isOutside = event.target instanceof Element && event.target.isConnected && event.target.matches("body, html");
    if (isOpen() && isOutside) set(false);
  });
  // Where it is simply there, nothing may stay out of reach.
  addEventListener("resize", () => {
    if (isOpen() && getComputedStyle(closer).display === "none") set(false);
  });
  return { set };
}
