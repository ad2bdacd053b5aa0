// Who is in a channel, put together from a sync and the events after it. Pure.

/** @typedef {import("./frames.js").Member} Member */
/** @typedef {import("./frames.js").PresenceFrame} PresenceFrame */

export class PresenceMembers {
  /** @type {Map<string, Member>} */
  members = new Map();
  /** @type {number | null} Only a number is known: the channel has too many members for a list. */
  count = null;
  #revision = 0;
  /** @type {Map<string, Member> | null} The pages of a sync so far. */
  #sync = null;
  #isKnown = false;

  /** The attachment ended: nothing is known until the next sync. What was known stays to be shown as past. */
  forget() {
    this.#isKnown = false;
    this.#sync = null;
  }

  /**
   * @param {PresenceFrame} frame
   * @returns {"changed" | "ignored" | "gap"} `gap`: an event is missing, so a new sync is needed.
   */
  apply(frame) {
    if (frame.action === "count") {
      this.count = frame.count ?? 0;
      this.members = new Map();
      this.forget();
      return "changed";
    }
    const revision = frame.revision ?? 0;
    if (frame.action === "sync") {
      this.#sync ??= new Map();
      for (const member of frame.members ?? []) this.#sync.set(member.client, member);
      if (frame.more) return "ignored";
      this.members = this.#sync;
      this.count = null;
      this.#sync = null;
      this.#revision = revision;
      this.#isKnown = true;
      return "changed";
    }
    if (!this.#isKnown || revision <= this.#revision) return "ignored";
    if (revision !== this.#revision + 1) {
      this.forget();
      return "gap";
    }
    this.#revision = revision;
    const client = frame.client ?? "";
    if (frame.action === "leave") this.members.delete(client);
    else {
      const before = this.members.get(client);
      this.members.set(client, {
        client,
        connections: frame.connections ?? before?.connections ?? 1,
        data: frame.data ?? null,
        since: before?.since ?? frame.since ?? 0,
      });
    }
    return "changed";
  }
}
