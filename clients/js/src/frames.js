// The frames of the wire as types, and reading one (docs/reference/protocol.md, "Frames").

/** @typedef {string | number} Ref */

/**
 * @typedef {object} ReadyFrame
 * @property {"ready"} type
 * @property {number} protocol
 * @property {string} connection
 * @property {string | null} client
 * @property {number} time
 * @property {number | null} expires_ms
 * @property {number} heartbeat_ms
 * @property {number} max_frame_bytes
 * @property {number} max_message_bytes
 * @property {number} max_attachments
 * @property {string} worker
 */

/**
 * @typedef {object} AttachedFrame
 * @property {"attached"} type
 * @property {Ref} [ref] Missing when unasked.
 * @property {string} channel
 * @property {string | null} epoch
 * @property {number} serial Delivery starts after it.
 * @property {number} head
 * @property {boolean} resumed
 * @property {number} window
 * @property {number} ack_every
 * @property {number} ack_ms
 * @property {string} [delta] "fossil": data come as strings, whole or as differences.
 */

/**
 * @typedef {object} MessageFrame
 * @property {"message"} type
 * @property {string} channel
 * @property {number} serial
 * @property {string} id
 * @property {number} time
 * @property {string | null} client
 * @property {string} event
 * @property {string} [key]
 * @property {any} data
 * @property {number} [base] `data` is a difference to the data of this serial. Never in what an application gets.
 * @property {boolean} [snapshot]
 */

/**
 * @typedef {object} SkippedFrame
 * @property {"skipped"} type
 * @property {string} channel
 * @property {string | null} epoch
 * @property {number | null} from
 * @property {number | null} to
 * @property {string} reason
 */

/**
 * @typedef {object} SnapshotEndFrame
 * @property {"snapshot.end"} type
 * @property {string} channel
 * @property {string | null} epoch
 * @property {number} serial
 */

/**
 * @typedef {object} PublishedFrame
 * @property {"published"} type
 * @property {Ref} ref
 * @property {string} channel
 * @property {string} epoch
 * @property {number[]} serials
 * @property {number[]} duplicates
 * @property {number[]} conflicts
 */

/**
 * @typedef {object} HistoryFrame
 * @property {"history"} type
 * @property {Ref} ref
 * @property {string} channel
 * @property {string | null} epoch
 * @property {number} oldest
 * @property {number} head
 * @property {MessageFrame[]} messages
 * @property {boolean} more
 * @property {{ from: number, to: number, reason: string }} [skipped]
 */

/**
 * @typedef {object} DetachedFrame
 * @property {"detached"} type
 * @property {Ref} [ref]
 * @property {string} channel
 * @property {string} [reason]
 */

/**
 * @typedef {object} SignalFrame
 * @property {"signal"} type
 * @property {string} channel
 * @property {string | null} client
 * @property {string} event
 * @property {any} data
 */

/**
 * @typedef {object} Member
 * @property {string} client
 * @property {number} connections
 * @property {any} data
 * @property {number} since
 */

/**
 * @typedef {object} PresenceFrame
 * @property {"presence"} type
 * @property {string} channel
 * @property {"sync" | "enter" | "update" | "leave" | "count"} action
 * @property {number} [revision]
 * @property {Member[]} [members]
 * @property {boolean} [more]
 * @property {string} [client]
 * @property {number} [connections]
 * @property {any} [data]
 * @property {number} [since]
 * @property {number} [count]
 */

/**
 * @typedef {object} ErrorFrame
 * @property {"error"} type
 * @property {Ref} [ref]
 * @property {string} code
 * @property {string} message
 * @property {string} remedy
 * @property {string} [channel]
 * @property {number} [retry_after_ms]
 */

/** @typedef {{ type: "authenticated", ref?: Ref, expires_ms: number | null }} AuthenticatedFrame */
/** @typedef {{ type: "pong", ref: Ref, time: number }} PongFrame */
/** @typedef {{ type: "ok", ref: Ref }} OkFrame */
/** @typedef {{ type: "heartbeat" }} HeartbeatFrame */
/** @typedef {{ type: "auth.expiring", in_ms: number }} ExpiringFrame */
/** @typedef {{ type: "reconnect", after_ms: number, reason?: string }} ReconnectFrame */

/** @typedef {ReadyFrame | AuthenticatedFrame | ErrorFrame | PongFrame | OkFrame | HeartbeatFrame | ExpiringFrame | ReconnectFrame} ConnectionFrame */
/** @typedef {AttachedFrame | DetachedFrame | MessageFrame | SkippedFrame | SnapshotEndFrame | PublishedFrame | HistoryFrame | SignalFrame | PresenceFrame} ChannelFrame */
/** @typedef {ConnectionFrame | ChannelFrame} ServerFrame */

/**
 * The frame in `text`, or null for what is not an object with a `type`. Clients ignore what they do not know, so a
 * caller ignores null as it ignores unknown types.
 *
 * @param {string} text
 * @returns {ServerFrame | null}
 */
export function parseFrame(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null || typeof value.type !== "string") return null;
  return value;
}
