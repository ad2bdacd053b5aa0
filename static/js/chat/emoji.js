// The dozen emoji that one reacts with, and the picker: a toolbar of buttons, walked with the arrows.

import { el } from "../dom.js";
import { popUp } from "./dialog.js";

/** @type {[string, string][]} */
export const EMOJI = [
  ["👍", "Thumbs up"],
  ["❤️", "Heart"],
  ["😂", "Laughing"],
  ["🎉", "Party"],
  ["🙏", "Thanks"],
  ["👀", "Looking"],
  ["✅", "Done"],
  ["🔥", "Fire"],
  ["😮", "Surprised"],
  ["😢", "Sad"],
  ["☀️", "Sun"],
  ["🚀", "Rocket"],
];

const PER_LINE = 6;

/** What an emoji is called; itself when it is none of ours. @param {string} emoji */
export const emojiName = (emoji) => EMOJI.find(([each]) => each === emoji)?.[1] ?? emoji;

/** @param {HTMLElement} anchor @param {(emoji: string) => void} onPick */
export function pickEmoji(anchor, onPick) {
  const buttons = EMOJI.map(([emoji, name], index) => {
    const button = el("button", { type: "button", "aria-label": name, title: name, tabindex: index === 0 ? "0" : "-1" }, emoji);
    button.addEventListener("click", () => {
      close();
      onPick(emoji);
    });
    return button;
  });
  const picker = el("div", { class: "popup emoji-picker", role: "toolbar", "aria-label": "Pick an emoji" }, ...buttons);
  const close = popUp(anchor, picker, ({ key }) => ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: PER_LINE, ArrowUp: -PER_LINE })[key]);
}
