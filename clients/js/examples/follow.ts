// In TypeScript: follows a channel over whatever gets through, and answers what it reads.

import { allTransports, Client, SeriatimError } from "seriatim";

interface Reading {
  sensor: string;
  celsius: number;
}

const client = new Client({ transports: allTransports(), token: async () => null });
client.on("state", (state) => console.log(state.name, client.transport));
client.connect();

const channel = client.channel("readings:roof", { from: { rewind: 50 } });
for await (const message of channel) {
  const reading: Reading = message.data;
  if (reading.celsius < 35) continue;
  try {
    const receipt = await channel.publish({ sensor: reading.sensor, alarm: true }, { event: "alarm" });
    console.log(`stored at ${receipt.serial}`);
  } catch (error) {
    if (error instanceof SeriatimError && error.code === "forbidden") break;
    throw error;
  }
}
