// The question of the quiz, and one vote on it.

import { el } from "../dom.js";
import { send } from "./send.js";

/** @param {HTMLElement} place @param {import("../../seriatim/channel.js").Channel} channel */
export function offerVote(place, channel) {
  const word = el("p", { role: "status" });
  let round = -1;
  channel.on("message", ({ event, data }) => {
    if (event !== "question" || !Array.isArray(data?.choices) || data.round <= round) return;
    round = data.round;
    word.textContent = "";
    const buttons = data.choices.map((/** @type {string} */ choice) => {
      const button = el("button", { class: "btn", type: "button" }, choice);
      button.addEventListener("click", async () => {
        for (const each of buttons) each.disabled = true;
        try {
          await send("/dashboards/api/vote", "POST", { choice });
          word.textContent = `Your vote: ${choice}.`;
        } catch (error) {
          word.textContent = error instanceof Error ? error.message : String(error);
        }
      });
      return button;
    });
    place.replaceChildren(el("h2", {}, data.text), el("div", { class: "row wrap" }, ...buttons), word);
  });
}
