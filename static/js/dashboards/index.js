// The list of dashboards: makes a new one.

import { find } from "../dom.js";
import { send } from "./send.js";

const form = /** @type {HTMLFormElement} */ (find("[data-new]"));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const { url } = await send("/dashboards/api/new", "POST", { name: new FormData(form).get("name") });
    location.assign(`${url}#edit`);
  } catch (error) {
    find("[data-error]").textContent = error instanceof Error ? error.message : String(error);
  }
});
