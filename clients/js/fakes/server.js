// A server in memory that speaks the wire (docs/reference/protocol.md), strictly: it keeps windows, refuses acks beyond
// what was sent, fails chained publishes. A test moves every frame by hand, so it can cut a line between any two.
//
// `strict` is the point: what the client may not do throws, so a test of something else finds it too.

import { createDelta } from "../../../tests/vendor/fossil-delta/fossil-delta.js";
import { settled } from "./clock.js";

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);

export class FakeServer {
  /** Told apart from a refusal: what a client must never do. */
  violations = [];
  /** @type {FakeLink[]} Every connection that was opened, newest last. */
  links = [];
  /** @type {Map<string, any>} */
  logs = new Map();
  /** @type {Map<string, { epoch: string | null, serial: number }>} */
  cursors = new Map();
  ready = {
    protocol: 1,
    expires_ms: null,
    heartbeat_ms: 25_000,
    max_frame_bytes: 1_048_576,
    max_message_bytes: 65_536,
    max_attachments: 200,
    worker: "w1",
  };
  window = 256;
  ackEvery = 128;
  ackMs = 10_000;
  allowsDelta = true;
  name = "fake";

  /**
   * @param {import("./clock.js").FakeClock} clock
   * @param {{ client?: string | null, auto?: boolean }} [options] `auto`: frames move by themselves, at once.
   */
  constructor(clock, { client = "ana", auto = false } = {}) {
    this.clock = clock;
    this.client = client;
    this.auto = auto;
    /** Gives an error frame to refuse a client's frame with. @type {(frame: any, link: FakeLink) => any} */
    this.refuse = () => null;
    /** Gives a close code, to end the connection when it opens. @type {(link: FakeLink) => [number, string] | null} */
    this.greet = () => null;
    this.epochs = 0;
  }

  /** A transport for `new Client({ transports })`. */
  open(target) {
    const link = new FakeLink(this, target);
    this.links.push(link);
    link.toClient.push("open");
    link.soon();
    return { send: (text) => link.sent(text), close: (code, reason) => link.closedByClient(code, reason) };
  }

  /** The newest connection. */
  get link() {
    return this.links.at(-1);
  }

  log(channel) {
    let log = this.logs.get(channel);
    if (!log) this.logs.set(channel, (log = { epoch: null, oldest: 1, head: 0, rows: new Map(), ids: new Map() }));
    return log;
  }

  /** Stores a message, as any publisher does. */
  publish(channel, data, { client = "bo", id = `x${Math.random()}`, event = "message", key } = {}) {
    const log = this.log(channel);
    const isFirst = log.epoch === null;
    if (isFirst) log.epoch = this.newName();
    const known = log.ids.get(`${client} ${id}`);
    if (known !== undefined)
      return { serial: known, duplicate: true, conflict: !same(log.rows.get(known)?.data, data) };
    const serial = ++log.head;
    const frame = { type: "message", channel, serial, id, time: this.clock.now(), client, event };
    if (key !== undefined && key !== null) frame.key = key;
    frame.data = data;
    log.rows.set(serial, frame);
    log.ids.set(`${client} ${id}`, serial);
    for (const link of this.links) link.news(channel, isFirst);
    return { serial, duplicate: false, conflict: false };
  }

  newName() {
    return `ep0${++this.epochs}`;
  }

  /** Rows through `serial` are gone. */
  prune(channel, serial) {
    const log = this.log(channel);
    for (let at = log.oldest; at <= serial; at++) log.rows.delete(at);
    log.oldest = Math.max(log.oldest, serial + 1);
    for (const link of this.links) link.news(channel, false);
  }

  /** The log begins anew. */
  startAnew(channel, { empty = true } = {}) {
    const log = this.log(channel);
    log.epoch = this.newName();
    if (empty) Object.assign(log, { oldest: 1, head: 0, rows: new Map(), ids: new Map() });
    for (const link of this.links) link.anew(channel);
  }

  /** Everything a channel holds. */
  rows(channel) {
    return [...this.log(channel).rows.values()];
  }

  violation(text) {
    this.violations.push(text);
  }
}

function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** One connection: two directions of frames on their way. */
export class FakeLink {
  toServer = [];
  toClient = [];
  /** Every frame the server read and wrote. */
  read = [];
  wrote = [];
  attachments = new Map();
  /** @type {Map<string, boolean>} Whether the last publish to the channel failed. */
  failed = new Map();
  isOver = false;
  isReady = false;

  constructor(server, target) {
    this.server = server;
    this.target = target;
    this.token = target.protocols.find((entry) => entry.startsWith("seriatim.bearer."))?.slice(16) ?? null;
  }

  // What a test does

  /** Moves the next frame towards the server. */
  moveUp() {
    const text = this.toServer.shift();
    if (text !== undefined && !this.isOver) this.handle(JSON.parse(text));
    return text !== undefined;
  }

  /** Moves the next frame towards the client. */
  moveDown() {
    const item = this.toClient.shift();
    if (item === undefined || this.isOver) return false;
    if (item === "open") {
      this.target.onOpen();
      this.opened();
    } else if (typeof item === "string") this.target.onText(item);
    else {
      this.isOver = true;
      this.leave();
      this.target.onClose(item.code, item.reason);
    }
    return true;
  }

  /** Moves everything that is on its way, in both directions, until nothing is. */
  moveAll() {
    while (this.toServer.length > 0 || this.toClient.length > 0) {
      if (this.isOver) return;
      if (!this.moveUp()) this.moveDown();
    }
  }

  /** Moves everything in a moment, where frames move by themselves: a real line never answers before it returns. */
  soon() {
    if (!this.server.auto || this.isMoving) return;
    this.isMoving = true;
    queueMicrotask(() => {
      this.isMoving = false;
      this.moveAll();
    });
  }

  async settle() {
    do {
      this.moveAll();
      await settled();
    } while (!this.isOver && (this.toServer.length > 0 || this.toClient.length > 0));
  }

  /** The line breaks: what is on its way is lost. */
  cut() {
    if (this.isOver) return;
    this.isOver = true;
    this.leave();
    this.toServer = [];
    this.toClient = [];
    this.target.onClose(1006, "");
  }

  /** The server closes, after what it wrote before. */
  close(code, reason = "") {
    this.toClient.push({ code, reason });
    this.soon();
  }

  write(frame) {
    if (this.isOver) return;
    this.wrote.push(frame);
    this.toClient.push(JSON.stringify(frame));
    this.soon();
  }

  // The wire

  sent(text) {
    if (this.isOver) return;
    this.toServer.push(text);
    this.soon();
  }

  closedByClient(code) {
    this.closeCode = code;
    if (this.isOver) return;
    // What was sent before a close still arrives.
    while (this.toServer.length > 0) this.moveUp();
    this.isOver = true;
    this.leave();
  }

  leave() {
    for (const attachment of this.attachments.values()) this.storeCursor(attachment);
    this.attachments.clear();
  }

  opened() {
    const end = this.server.greet(this);
    if (end) return this.close(...end);
    if (this.token === null && this.server.needsAuth) return;
    this.beReady();
  }

  beReady(ref) {
    this.isReady = true;
    const { clock, client, ready } = this.server;
    const frame = { type: "ready", connection: `c${this.server.links.length}`, client, time: clock.now(), ...ready };
    this.write(ref === undefined ? frame : { ...frame, ref });
  }

  handle(frame) {
    this.read.push(frame);
    if (frame.acks) this.ack(frame.acks);
    const error = this.server.refuse(frame, this);
    if (error) {
      if (frame.type === "publish") this.failed.set(frame.channel, true);
      this.write({ type: "error", ref: frame.ref, message: error.code, remedy: "", channel: frame.channel, ...error });
      return;
    }
    switch (frame.type) {
      case "auth":
        this.token = frame.token;
        if (this.isReady)
          this.write({ type: "authenticated", ref: frame.ref, expires_ms: this.server.ready.expires_ms });
        else this.beReady(frame.ref);
        return;
      case "ping":
        return this.write({ type: "pong", ref: frame.ref, time: this.server.clock.now() });
      case "attach":
        return this.attach(frame);
      case "detach":
        this.storeCursor(this.attachments.get(frame.channel));
        this.attachments.delete(frame.channel);
        return this.write({ type: "detached", ref: frame.ref, channel: frame.channel });
      case "ack":
        return this.ack(frame.serials);
      case "publish":
        return this.publish(frame);
      case "history":
        return this.history(frame);
      case "presence":
        return this.write({ type: "ok", ref: frame.ref });
      case "signal":
        return;
      default:
        this.server.violation(`unknown type ${frame.type}`);
    }
  }

  attach({ ref, channel, from, window = 256, delta }) {
    const { server } = this;
    const log = server.log(channel);
    let position = typeof from === "object" && "serial" in from ? from : null;
    let cursor = null;
    if (typeof from === "object" && "cursor" in from) {
      cursor = from.cursor;
      position = server.cursors.get(`${channel} ${cursor}`) ?? { epoch: log.epoch, serial: log.head };
      server.cursors.set(`${channel} ${cursor}`, position);
    }
    let serial = log.head;
    let skipped = null;
    if (position) {
      if (position.epoch === null && position.serial === 0) serial = log.oldest - 1;
      else if (position.epoch !== log.epoch || position.serial > log.head) {
        serial = log.oldest - 1;
        skipped = { from: null, to: null, reason: "epoch" };
      } else if (position.serial < log.oldest - 1) {
        serial = log.oldest - 1;
        skipped = { from: position.serial + 1, to: serial, reason: "retention" };
      } else serial = position.serial;
    } else if (from === "start") serial = log.oldest - 1;
    else if (typeof from === "object" && "rewind" in from) serial = Math.max(log.oldest - 1, log.head - from.rewind);
    const effective = Math.min(window, server.window);
    const attachment = {
      channel,
      sent: serial,
      acked: serial,
      base: serial,
      hasAcked: false,
      window: effective,
      cursor,
      delta: delta === "fossil" && server.allowsDelta ? "fossil" : undefined,
      held: null,
    };
    attachment.epoch = log.epoch;
    this.attachments.set(channel, attachment);
    this.write({
      type: "attached",
      ref,
      channel,
      epoch: log.epoch,
      serial,
      head: log.head,
      resumed: skipped === null,
      window: effective,
      ack_every: Math.min(server.ackEvery, effective),
      ack_ms: server.ackMs,
      delta: attachment.delta,
    });
    if (skipped) this.write({ type: "skipped", channel, epoch: log.epoch, ...skipped });
    if (from === "latest") {
      const newest = new Map();
      for (const row of log.rows.values()) if (row.key !== undefined) newest.set(row.key, row);
      const rows = [...newest.values()].sort((a, b) => a.serial - b.serial);
      for (const row of rows) this.write({ ...this.told({ ...attachment, held: null }, row), snapshot: true });
      this.write({ type: "snapshot.end", channel, epoch: log.epoch, serial: log.head });
      Object.assign(attachment, { sent: log.head, acked: log.head, base: log.head });
    }
    this.news(channel, false);
  }

  /** Writes what the window allows. */
  news(channel, isFirst) {
    const attachment = this.attachments.get(channel);
    if (!attachment || this.isOver) return;
    const log = this.server.log(channel);
    if (isFirst) this.unasked(attachment, log, 0, true);
    if (attachment.sent < log.oldest - 1) {
      const to = log.oldest - 1;
      this.write({ type: "skipped", channel, epoch: log.epoch, from: attachment.sent + 1, to, reason: "retention" });
      attachment.sent = attachment.acked = to;
      attachment.held = null;
    }
    while (
      attachment.sent < log.head &&
      (attachment.window === 0 || attachment.sent - attachment.acked < attachment.window)
    ) {
      attachment.sent += 1;
      this.write(this.told(attachment, log.rows.get(attachment.sent)));
    }
  }

  /** The message as the attachment is sent it; a difference wherever there can be one, however long. */
  told(attachment, row) {
    if (attachment.delta === undefined) return row;
    const { held } = attachment;
    const text = JSON.stringify(row.data);
    attachment.held = { serial: row.serial, text };
    if (held === null) return { ...row, data: text };
    const delta = new TextDecoder().decode(Uint8Array.from(createDelta(bytes(held.text), bytes(text))));
    return { ...row, base: held.serial, data: delta };
  }

  anew(channel) {
    const attachment = this.attachments.get(channel);
    if (!attachment) return;
    const log = this.server.log(channel);
    const start = log.oldest - 1;
    this.unasked(attachment, log, start, false);
    this.write({ type: "skipped", channel, epoch: log.epoch, from: null, to: null, reason: "epoch" });
    this.news(channel, false);
  }

  unasked(attachment, log, serial, resumed) {
    Object.assign(attachment, { sent: serial, acked: serial, base: serial, hasAcked: false, epoch: log.epoch, held: null });
    const { ackEvery, ackMs } = this.server;
    const { channel, window } = attachment;
    const pace = { window, ack_every: Math.min(ackEvery, window), ack_ms: ackMs };
    const { delta } = attachment;
    this.write({ type: "attached", channel, epoch: log.epoch, serial, head: log.head, resumed, ...pace, delta });
  }

  ack(serials) {
    for (const [channel, serial] of Object.entries(serials)) {
      const attachment = this.attachments.get(channel);
      if (!attachment) continue;
      if (attachment.window === 0) this.server.violation("an ack with window 0");
      if (serial > attachment.sent) {
        if (attachment.hasAcked) this.server.violation(`bad_ack: ${serial} beyond ${attachment.sent} in ${channel}`);
        continue;
      }
      attachment.hasAcked = true;
      if (serial <= attachment.acked) continue;
      attachment.acked = serial;
      this.news(channel, false);
    }
  }

  storeCursor(attachment) {
    if (!attachment?.cursor) return;
    const key = `${attachment.channel} ${attachment.cursor}`;
    const stored = this.server.cursors.get(key);
    if (stored?.epoch === attachment.epoch && stored.serial >= attachment.acked) return;
    this.server.cursors.set(key, { epoch: attachment.epoch, serial: attachment.acked });
  }

  publish({ ref, channel, messages, chained }) {
    if (chained && this.failed.get(channel)) {
      this.write({ type: "error", ref, code: "order", message: "", remedy: "", channel });
      return;
    }
    const { server } = this;
    const outcomes = messages.map(({ id, event, key, data }) =>
      server.publish(channel, data, { client: server.client ?? "", id, event, key }),
    );
    this.failed.set(channel, false);
    const indexes = (name) => outcomes.flatMap((outcome, index) => (outcome[name] ? [index] : []));
    this.write({
      type: "published",
      ref,
      channel,
      epoch: server.log(channel).epoch,
      serials: outcomes.map((outcome) => outcome.serial),
      duplicates: indexes("duplicate"),
      conflicts: indexes("conflict"),
    });
  }

  history({ ref, channel, before = Infinity, after, limit = 100 }) {
    const { epoch, oldest, head } = this.server.log(channel);
    let rows = this.server.rows(channel).filter((row) => row.serial < before && row.serial > (after ?? 0));
    if (after === undefined) rows.reverse();
    const more = rows.length > limit;
    this.write({ type: "history", ref, channel, epoch, oldest, head, messages: rows.slice(0, limit), more });
  }
}
