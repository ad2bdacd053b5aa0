// A name for who has none. Pure.

/** @param {string | null} client */
export function clientName(client) {
  if (client === null || client === "") return "The server";
  return client.startsWith("~") ? `User ${client.slice(1)}` : client;
}
