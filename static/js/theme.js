// Light or dark: what the reader chose, else what the system says. A classic script, run before the first paint.

(function () {
  "use strict";
  const root = document.documentElement;
  const KEY = "seriatim.theme";

  // What says that JavaScript is off goes away.
  root.dataset.scripts = "";

  function read() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // Storage is off: the system decides.
    }
  }

  const chosen = read();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("[data-theme-toggle]")) return;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try {
      localStorage.setItem(KEY, root.dataset.theme);
    } catch {
      // It then holds for this page only.
    }
    // Charts are drawn on a canvas, which does not follow by itself.
    dispatchEvent(new CustomEvent("themechange"));
  });
})();
