// Being present once for each device: of all windows of one browser one stands for the others. So the connections that
// presence counts for somebody are devices, and not windows.
//
// The one that was looked at last stands, since the browser may put the others to sleep. The windows agree by a lock of
// their origin; where there are none (a page without HTTPS), each stands for itself.

/** @typedef {import("../../seriatim/channel.js").Channel} Channel */

/** What connections of a member are. */
export const UNIT = navigator.locks ? "device" : "window";

/** @param {Channel} channel One that we attach to. @param {string} me */
export function bePresent(channel, me) {
  const { presence } = channel;
  // Refused: others do not see us, and nothing else changes. After a break the client enters again by itself.
  // Other data each time, so that all who follow are told, and with it of how many devices.
  const enter = () => presence.enter({ at: Date.now() }).catch(() => {});
  const { locks } = navigator;
  if (!locks) return void enter();

  const name = `seriatim.chat.here/${me}/${channel.name}`;
  /** @type {AbortController | null} */
  let waiting = null;
  let isTaking = false;
  let stands = false;

  /** @param {LockOptions} how @param {() => unknown} [first] */
  const hold = (how, first) => {
    const held = locks.request(name, how, () => {
      stands = true;
      waiting = null;
      first?.();
      return new Promise(() => {}); // Until the window goes, or another one takes it.
    });
    held.catch(() => {
      if (!stands) return; // We do not wait any more.
      stands = false;
      presence.leave().catch(() => {});
      wait();
    });
  };
  /** Stands as soon as no other window does. */
  const wait = () => {
    waiting = new AbortController();
    hold({ signal: waiting.signal }, enter);
  };
  /** Stands in place of another window. We enter before it leaves: nobody sees us go. */
  const take = async () => {
    if (stands || isTaking) return;
    isTaking = true;
    await enter();
    isTaking = false;
    if (stands) return; // In the meantime our turn had come.
    waiting?.abort();
    hold({ steal: true });
  };
  const isSeen = () => document.visibilityState === "visible";
  document.addEventListener("visibilitychange", () => isSeen() && void take());
  if (isSeen()) void take();
  else wait();
}
