// The public names of the package. Everything else may change without notice.

export { Client } from "./client.js";
export { Channel } from "./channel.js";
export { SeriatimError } from "./errors.js";
export { ERRORS, LOCAL_ERRORS, CLOSES } from "./codes.js";
export { LocalOutboxStorage } from "./storage.js";
export { LocalTransportMemory } from "./transport-choice.js";
export { HttpTransport, allTransports } from "./transport-http.js";
export { WebSocketTransport } from "./transport-websocket.js";
