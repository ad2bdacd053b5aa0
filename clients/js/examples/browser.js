// In a page: shows a channel and says something in it. A page of another site has to be among the server's
// REALTIME_ORIGINS. A real one gets its token from its own server, and never shows it.

import { allTransports, Client } from "seriatim";

const [connect, say] = /** @type {HTMLFormElement[]} */ ([...document.forms]);

connect.addEventListener("submit", (event) => {
  event.preventDefault();
  const { site, token, channel: name } = /** @type {Record<string, string>} */ (Object.fromEntries(new FormData(connect)));
  const client = new Client({
    url: new URL("/ws", site).href,
    token: async () => token,
    transports: allTransports({ api: new URL("/api/v1", site).href }),
  });
  client.on("state", (state) => show("state", state.name));
  const channel = client.channel(name, { from: { rewind: 10 } });
  channel.on("message", (message) => {
    const item = document.createElement("li");
    item.textContent = `${message.client}: ${message.data.text}`;
    document.getElementById("messages")?.append(item);
  });
  client.connect();
  channel.attach().catch((error) => show("state", error.message));

  say.onsubmit = async (event) => {
    event.preventDefault();
    const text = new FormData(say).get("text");
    say.reset();
    await channel.publish({ text }).catch((error) => show("state", error.message));
  };
});

/** @param {string} id @param {string} text */
function show(id, text) {
  const element = document.getElementById(id);
  if (element) element.textContent = text;
}
