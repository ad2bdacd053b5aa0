// In Node: follows a channel over whatever gets through, and publishes what is given.
//
//   SERIATIM_URL=https://chat.example SERIATIM_TOKEN=… node node.mjs news:today "hello"

import { allTransports, Client } from "seriatim";

const { SERIATIM_URL: site = "http://127.0.0.1:8000", SERIATIM_TOKEN: token = null } = process.env;
const [name = "news:today", text] = process.argv.slice(2);

const client = new Client({
  url: new URL("/ws", site).href,
  token: async () => token,
  transports: allTransports({ api: new URL("/api/v1", site).href }),
});
client.on("state", (state) => console.error(state.name, client.transport));
client.on("error", (error) => console.error(error.message, error.remedy));
client.connect();

const channel = client.channel(name, { from: { rewind: 10 } });
if (text !== undefined) {
  const { serial } = await channel.publish({ text });
  console.log(`stored at ${serial}`);
}
for await (const message of channel) console.log(message.serial, message.client, JSON.stringify(message.data));
