// Following one channel: attach, messages in order, acks, resume. The channel object is the face of it; the connection
// comes and goes beneath.
//
// Theory of operation. Frames of the channel become items in one queue, in stream order. A pump takes them out one at a
// time: control items move the position at once, a message only when every consumer has processed it. So the position,
// the acks and the discontinuities are always those of what the application has really seen.
//
//     detached ──want──▶ attaching ──attached──▶ attached
//         ▲                  ▲ │                    │
//         │                  │ └──── line lost ◀────┤   (wanted still: attaching again when the line is up)
//         │                  └──────── gap ─────────┤   (resume from the own position, on the same connection)
//         └──── unwant, detached, refused ──────────┘
//
// Resume. Whatever the first `from` was, later attaches say the position of the last processed message; the server
// sends what came after it again, so what is received and not processed then is dropped. Two exceptions. A snapshot
// that was cut is asked for again. A cursor is attached by name each time, since acks move it only then; what the
// stored position repeats is dropped by serial. What stands in the hands of a consumer when the line is lost stays
// there, and its second copy is dropped.

import { AckCadence } from "./ack-cadence.js";
import { Backoff } from "./backoff.js";
import { Timer } from "./clock.js";
import { DataReader } from "./data-reader.js";
import { SeriatimError } from "./errors.js";
import { DeltaError } from "./fossil.js";
import { isPosition } from "./position.js";
import { Queue } from "./queue.js";
import { SerialTracker } from "./serials.js";

/** @typedef {import("./frames.js").AttachedFrame} AttachedFrame */
/** @typedef {import("./frames.js").ErrorFrame} ErrorFrame */
/** @typedef {import("./frames.js").MessageFrame} MessageFrame */
/** @typedef {import("./frames.js").SkippedFrame} SkippedFrame */
/** @typedef {import("./frames.js").SnapshotEndFrame} SnapshotEndFrame */
/** @typedef {import("./position.js").Position} Position */
/** @typedef {import("./position.js").From} From */

/**
 * What a channel needs of the client.
 *
 * @typedef {object} Line
 * @property {import("./clock.js").Clock} clock
 * @property {() => number} random
 * @property {import("./backoff.js").BackoffOptions} backoff
 * @property {() => boolean} isUp
 * @property {(frame: Record<string, unknown>) => void} send
 * @property {(frame: Record<string, unknown>, onAnswer: (answer: any) => void) => void} request
 * @property {() => void} sendAcks Sends the acks of every channel in one frame.
 * @property {() => void} changed Something that the state of the line depends on may have changed.
 */

/**
 * What may be missing: the serials from `from` to `to`, or, when both are null, everything that the old epoch had.
 *
 * @typedef {object} Discontinuity
 * @property {number | null} from
 * @property {number | null} to
 * @property {string} reason `retention`, `epoch`, `conflated`; `cursor`: another connection moved the cursor on;
 *   `unexplained`: the server moved on and did not say why.
 * @property {string | null} epoch The epoch from here on.
 * @property {Position | null} before The position until here.
 * @property {Position} position The position from here on.
 */

/**
 * What the channel is told, and asked for. A promise from `deliver` or `onDiscontinuity` holds back what comes behind.
 *
 * @typedef {object} AttachmentEvents
 * @property {() => boolean} hasConsumers
 * @property {(message: MessageFrame) => Promise<boolean> | boolean} deliver Whether the message was processed.
 * @property {(frame: AttachedFrame) => void} onAttached
 * @property {(reason: string, error: SeriatimError | null) => void} onDetached
 * @property {(error: SeriatimError) => void} onError
 * @property {(discontinuity: Discontinuity) => Promise<void> | void} onDiscontinuity
 * @property {(snapshot: { epoch: string | null, serial: number, count: number }) => void} onSnapshot
 * @property {() => void} onProgress
 */

/** @typedef {(position: Position) => unknown} StateLoader */

/** @typedef {{ generation: number, life: number, epoch: string | null, size: number }} Stamp */
/**
 * @typedef {Stamp & ({ kind: "attached", frame: AttachedFrame, restart: From | null }
 *   | { kind: "skipped", frame: SkippedFrame, serial: number }
 *   | { kind: "message", message: MessageFrame }
 *   | { kind: "snapshot", serial: number, count: number }
 *   | { kind: "positioned", serial: number, restart: From | null })} Item
 */

export class Attachment {
  #name;
  #line;
  #events;
  /** @type {{ from: From, window: number | undefined, presence: boolean, delta: "fossil" | undefined }} */
  #options = { from: "head", window: undefined, presence: false, delta: undefined };

  #wanted = false;
  /** @type {"detached" | "attaching" | "attached"} */
  #state = "detached";
  /** Counts attach requests: an answer to an older one is void. */
  #asks = 0;
  /** A `from` that the caller gave anew, until the position is there. @type {From | null} */
  #restart = null;
  #retryTimer;
  #retryBackoff;

  #tracker = new SerialTracker();
  #data = new DataReader();
  #cadence;
  #ackTimer;
  #ackMs = 0;
  #processedAt = 0;
  #head = 0;
  /** Counts attachments, also unasked ones: acks are only for messages of the present one. */
  #generation = 0;
  /** Counts lives: a message of an earlier one does not come back into the queue. */
  #life = 0;

  /** @type {Queue<Item>} */
  #queue = new Queue();
  #isPumping = false;
  /** The snapshot so far. @type {{ rows: { message: MessageFrame, size: number }[], restart: From | null } | null} */
  #snapshot = null;
  /** @type {Position | null} */
  #position = null;
  /** `attached` said that the position was not honoured; `skipped` has to say why. */
  #skipDue = false;
  /** The head at the attach: until it is processed the channel catches up. */
  #target = 0;
  #isLevel = true;

  /** @type {StateLoader | null} */
  #loader = null;
  #mustLoad = false;
  /** @type {{ resolve: () => void, reject: (error: SeriatimError) => void }[]} */
  #loads = [];
  #loadBackoff;
  #loadTimer;

  /**
   * @param {string} name
   * @param {Line} line
   * @param {AttachmentEvents} events
   */
  constructor(name, line, events) {
    this.#name = name;
    this.#line = line;
    this.#events = events;
    this.#cadence = new AckCadence(line.random);
    this.#ackTimer = new Timer(line.clock, () => this.#ackTime());
    this.#retryBackoff = new Backoff(line.backoff, line.random);
    this.#retryTimer = new Timer(line.clock, () => this.#ask());
    this.#loadBackoff = new Backoff(line.backoff, line.random);
    this.#loadTimer = new Timer(line.clock, () => void this.pump());
  }

  get state() {
    return this.#state;
  }

  get isWanted() {
    return this.#wanted;
  }

  /** Everything through here is processed. Null before the first attach, and while a first snapshot comes. */
  get position() {
    return this.#position;
  }

  /** The newest serial known to be in the log. */
  get head() {
    return Math.max(this.#head, this.#tracker.serial);
  }

  /** How many messages are known to be in the log and not processed. */
  get behind() {
    const at = this.#position;
    if (at === null || this.#state === "detached") return 0;
    if (at.epoch !== this.#tracker.epoch) return this.#queue.length;
    return Math.max(0, this.head - at.serial);
  }

  /** Whether messages that were in the log at the attach are still to come. */
  get isCatchingUp() {
    return this.#state === "attached" && !this.#isLevel;
  }

  /** Whether an attach was sent and not answered. */
  get isAsking() {
    return this.#state === "attaching" && !this.#retryTimer.isSet;
  }

  /** @param {{ from?: From, window?: number, presence?: boolean, delta?: "fossil" | undefined }} options */
  configure(options) {
    this.#options = { ...this.#options, ...options };
  }

  /**
   * Follows the channel from now on, through every loss of the line.
   *
   * @param {From} [from] Attach from here, also when a position is known.
   */
  want(from) {
    if (from !== undefined) this.#restart = from;
    if (this.#wanted && from === undefined) return;
    this.#wanted = true;
    this.#ask();
  }

  /** Stops following. The position is kept. */
  unwant() {
    if (!this.#wanted) return;
    if (this.#state !== "detached" && this.#line.isUp()) {
      this.#line.request({ type: "detach", channel: this.#name }, () => {});
    }
    this.#leave("asked", null);
  }

  /** The line is up: attach if wanted. */
  lineUp() {
    if (this.#wanted) this.#ask();
  }

  /** The line is lost. Consumers go on with what was received; what is left at the next attach will be sent again. */
  lineDown() {
    this.#asks += 1;
    this.#retryTimer.clear();
    this.#ackTimer.clear();
    this.#cadence.begin(0);
    this.#snapshot = null;
    if (this.#wanted) this.#state = "attaching";
  }

  /** The serial to acknowledge, or null. From here it counts as said. */
  takeAck() {
    return this.#state === "attached" ? this.#cadence.take() : null;
  }

  /**
   * A frame of this channel that is no answer to a request.
   *
   * @param {import("./frames.js").ServerFrame} frame
   * @param {number} size
   */
  receive(frame, size) {
    if (frame.type === "attached") {
      if (this.#state === "attached") this.#attached(frame);
    } else if (frame.type === "detached") {
      // While an attach is on its way its answer decides; this one is about the attachment before.
      if (this.#wanted && !this.isAsking) this.#leave(frame.reason ?? "detached", null);
    } else if (this.#state !== "attached") {
      // Of an attachment that is over: what stands after the new `attached` will say it again.
    } else if (frame.type === "message") this.#message(frame, size);
    else if (frame.type === "skipped") this.#skipped(frame);
    else if (frame.type === "snapshot.end") this.#snapshotEnd(frame);
  }

  /**
   * Loads the application's state with `loader` and goes on from the position it was given: now, and again after each
   * discontinuity. Messages are held back meanwhile.
   *
   * @param {StateLoader} loader
   * @returns {Promise<void>} Resolves when the state was loaded the first time.
   */
  loadState(loader) {
    this.#loader = loader;
    this.#mustLoad = true;
    return new Promise((resolve, reject) => {
      this.#loads.push({ resolve, reject });
      this.want();
      void this.pump();
    });
  }

  /** Attaches again from the own position, to be told anew who is here. */
  resync() {
    if (this.#state === "attached") this.#again();
  }

  /** The client was closed. The channel stays wanted, should it connect again. @param {SeriatimError} error */
  closed(error) {
    this.#loadTimer.clear();
    for (const { reject } of this.#loads.splice(0)) reject(error);
  }

  /** Everything through `serial` is processed, whatever the consumer does next. @param {number} serial */
  processedThrough(serial) {
    const at = this.#position;
    if (at !== null && at.epoch === this.#tracker.epoch && serial > at.serial && serial <= this.#tracker.serial) {
      this.#position = { epoch: at.epoch, serial };
    }
  }

  #ask() {
    this.#retryTimer.clear();
    this.#drop();
    this.#cadence.begin(0);
    this.#ackTimer.clear();
    this.#state = "attaching";
    if (!this.#line.isUp()) return;
    const ask = ++this.#asks;
    const restart = this.#restart;
    const { window, presence, delta } = this.#options;
    const from = this.#from();
    /** @type {Record<string, unknown>} */
    const frame = { type: "attach", channel: this.#name, from };
    if (window !== undefined) frame.window = window;
    if (presence) frame.presence = true;
    if (delta !== undefined) frame.delta = delta;
    this.#line.request(frame, (answer) => {
      if (ask !== this.#asks) return;
      if (answer.type === "attached") {
        this.#attached(answer, restart, from === "latest");
      } else this.#refused(answer);
    });
    this.#line.changed();
  }

  /** @returns {From} */
  #from() {
    if (this.#restart !== null) return this.#restart;
    const { from } = this.#options;
    if (typeof from === "object" && "cursor" in from) return from;
    return this.#position ?? from;
  }

  /** @param {ErrorFrame} answer */
  #refused(answer) {
    const error = SeriatimError.fromFrame(answer, this.#name);
    if (error.retry || error.code === "unauthorized") {
      this.#events.onError(error);
      this.#retryTimer.set(error.retryAfterMs ?? this.#retryBackoff.nextMs());
      this.#line.changed();
    } else this.#leave(error.code, error);
  }

  /** @param {string} reason @param {SeriatimError | null} error */
  #leave(reason, error) {
    this.#wanted = false;
    this.#restart = null;
    this.#state = "detached";
    this.#asks += 1;
    this.#life += 1;
    this.#retryTimer.clear();
    this.#loadTimer.clear();
    this.#ackTimer.clear();
    this.#cadence.begin(0);
    this.#drop();
    for (const { reject } of this.#loads.splice(0)) {
      reject(error ?? new SeriatimError("detached", undefined, { channel: this.#name }));
    }
    this.#events.onDetached(reason, error);
    this.#line.changed();
  }

  #drop() {
    this.#queue.clear();
    this.#snapshot = null;
    this.#skipDue = false;
  }

  /**
   * @param {AttachedFrame} frame
   * @param {From | null} [restart] The caller gave `from` anew: the position before says nothing about this one.
   * @param {boolean} [withSnapshot]
   */
  #attached(frame, restart = null, withSnapshot = false) {
    this.#generation += 1;
    this.#state = "attached";
    this.#tracker.begin(frame.epoch, frame.serial);
    this.#data.begin(frame.delta);
    this.#head = frame.head;
    this.#cadence.begin(frame.window === 0 ? 0 : (frame.ack_every ?? 0));
    this.#ackMs = frame.ack_ms ?? 0;
    this.#ackTimer.clear();
    // The first epoch of a log that was followed from before its first message is no backlog.
    if (frame.ref !== undefined || !frame.resumed) {
      this.#target = frame.head;
      this.#isLevel = !withSnapshot && frame.head <= frame.serial;
    }
    // Another epoch under a snapshot ends it: all of the new log follows.
    this.#snapshot = withSnapshot ? { rows: [], restart } : null;
    if (!withSnapshot) this.#push({ kind: "attached", frame, restart }, frame.epoch);
    void this.pump();
    this.#events.onAttached(frame);
    this.#line.changed();
  }

  /** @param {MessageFrame} message @param {number} size */
  #message(message, size) {
    if (this.#snapshot !== null && message.snapshot) {
      if (this.#read(message)) this.#snapshot.rows.push({ message, size });
      return;
    }
    const step = this.#tracker.take(message.serial);
    if (step === "old") return;
    if (step === "gap") return this.#gap(message.serial);
    if (!this.#read(message)) return;
    // The server's window counts what the data are, not how few bytes told them.
    this.#push({ kind: "message", message }, this.#tracker.epoch, Math.max(size, this.#data.size));
    void this.pump();
  }

  /** Makes the data of the message out of what came. False: that was not possible. @param {MessageFrame} message */
  #read(message) {
    try {
      message.data = this.#data.read(message);
      delete message.base;
      return true;
    } catch (cause) {
      if (!(cause instanceof DeltaError)) throw cause;
      const text = `message ${message.serial} cannot be read: ${cause.message}; resuming from the own position`;
      this.#events.onError(new SeriatimError("delta", text, { channel: this.#name, cause }));
      this.#again();
      return false;
    }
  }

  /** @param {SkippedFrame} frame */
  #skipped(frame) {
    const step = this.#tracker.skip(frame.from, frame.to);
    if (step === "gap") return this.#gap(frame.from ?? 0);
    this.#data.forget();
    // A skip that `attached` already counted (its serial is the skip's `to`) still has to be told.
    this.#head = Math.max(this.#head, this.#tracker.serial);
    this.#push({ kind: "skipped", frame, serial: this.#tracker.serial }, this.#tracker.epoch);
    void this.pump();
  }

  /** @param {SnapshotEndFrame} frame */
  #snapshotEnd(frame) {
    if (this.#snapshot === null) return;
    const { rows, restart } = this.#snapshot;
    this.#snapshot = null;
    this.#tracker.begin(frame.epoch, frame.serial);
    this.#head = Math.max(this.#head, frame.serial);
    this.#push({ kind: "snapshot", serial: frame.serial, count: rows.length }, frame.epoch);
    for (const { message, size } of rows) this.#push({ kind: "message", message }, frame.epoch, size);
    this.#push({ kind: "positioned", serial: frame.serial, restart }, frame.epoch);
    void this.pump();
  }

  /** @param {number} got */
  #gap(got) {
    const expected = this.#tracker.serial + 1;
    this.#events.onError(
      new SeriatimError("gap", `expected serial ${expected}, got ${got}; resuming from the own position`, {
        channel: this.#name,
      }),
    );
    this.#again();
  }

  /** Resumes on the same connection. At once the first time; a fault that comes again is not answered in a tight loop. */
  #again() {
    if (!this.#wanted) return;
    if (this.#retryBackoff.attempt === 0) {
      this.#retryBackoff.nextMs();
      this.#ask();
      return;
    }
    this.#drop();
    this.#state = "attaching";
    this.#retryTimer.set(this.#retryBackoff.nextMs());
    this.#line.changed();
  }

  /**
   * @param {any} item
   * @param {string | null} epoch
   * @param {number} [size]
   */
  #push(item, epoch, size = 0) {
    this.#queue.push({ ...item, generation: this.#generation, life: this.#life, epoch, size });
  }

  /** Hands out what may be handed out. Runs once at a time; returns when there is nothing more to do for now. */
  async pump() {
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      for (;;) {
        if (this.#mustLoad && this.#loader && this.#position !== null && !this.#skipDue && this.#wanted) {
          if (this.#loadTimer.isSet || !(await this.#load(this.#loader, this.#position))) break;
          continue;
        }
        const item = this.#queue.peek();
        if (item === undefined) break;
        if (item.kind === "message" && !this.#events.hasConsumers()) break;
        this.#queue.shift();
        const waits = this.#handle(item);
        if (waits) await waits;
      }
    } finally {
      this.#isPumping = false;
    }
  }

  /** @param {Item} item @returns {Promise<void> | void} */
  #handle(item) {
    switch (item.kind) {
      case "attached":
        return this.#begin(item.frame, item.restart);
      case "skipped":
        return this.#skip(item.frame, item.serial);
      case "snapshot":
        this.#events.onSnapshot({ epoch: item.epoch, serial: item.serial, count: item.count });
        return;
      case "positioned":
        this.#restarted(item.restart);
        this.#moveTo({ epoch: item.epoch, serial: item.serial });
        this.#mustLoad ||= this.#loader !== null;
        return;
      case "message": {
        const { message } = item;
        if (!message.snapshot && this.#isBehindPosition(item.epoch, message.serial)) return this.#acknowledge(item);
        if (this.#skipDue && !message.snapshot) {
          // The server never said what became of the old position. Do not leave that out silently.
          const told = this.#tell(null, null, "unexplained", { epoch: item.epoch, serial: message.serial - 1 });
          this.#queue.unshift(item);
          return told;
        }
        const done = this.#events.deliver(message);
        if (typeof done === "boolean") return this.#delivered(item, done);
        return done.then((processed) => this.#delivered(item, processed));
      }
    }
  }

  /** @param {From | null} restart */
  #restarted(restart) {
    // Unless the caller gave another one meanwhile.
    if (this.#restart === restart) this.#restart = null;
  }

  /** @param {AttachedFrame} frame @param {From | null} restart @returns {Promise<void> | void} */
  #begin(frame, restart) {
    this.#restarted(restart);
    const before = restart === null ? this.#position : null;
    const start = { epoch: frame.epoch, serial: frame.serial };
    if (!frame.resumed) {
      this.#skipDue = true;
      return;
    }
    if (before === null) {
      this.#moveTo(start);
      this.#mustLoad ||= this.#loader !== null;
    } else if (before.epoch === start.epoch) {
      // A cursor may stand behind us (then its messages are dropped by serial), or ahead: another connection moved it.
      if (start.serial <= before.serial) return;
      const { from } = this.#options;
      const reason = typeof from === "object" && "cursor" in from ? "cursor" : "unexplained";
      return this.#tell(before.serial + 1, start.serial, reason, start);
    } else if (before.epoch === null) {
      // The first publish came while we waited for it, or while we were away: then its retention may be over too.
      if (start.serial > 0) return this.#tell(1, start.serial, "retention", start);
      this.#moveTo(start);
    } else return this.#tell(null, null, "epoch", start);
  }

  /** @param {SkippedFrame} frame @param {number} serial @returns {Promise<void> | void} */
  #skip(frame, serial) {
    this.#skipDue = false;
    const epoch = frame.epoch;
    // Without numbers the log itself is another, or lost its end: then the position goes back.
    if (frame.to !== null && this.#isBehindPosition(epoch, serial)) return;
    // What was in the hands of a consumer when the line was lost may be processed by now.
    const at = this.#position;
    const from =
      frame.from !== null && at !== null && at.epoch === epoch ? Math.max(frame.from, at.serial + 1) : frame.from;
    return this.#tell(from, frame.to, frame.reason, { epoch, serial });
  }

  /**
   * Moves the position over what cannot be had, and says so.
   *
   * @param {number | null} from
   * @param {number | null} to
   * @param {string} reason
   * @param {Position} position
   */
  #tell(from, to, reason, position) {
    const before = this.#position;
    this.#skipDue = false;
    this.#moveTo(position);
    // A conflated channel goes on with the newest of each key: that is the state.
    if (this.#loader && reason !== "conflated") this.#mustLoad = true;
    return this.#events.onDiscontinuity({ from, to, reason, epoch: position.epoch, before, position });
  }

  /** @param {Item & { kind: "message" }} item @param {boolean} processed */
  #delivered(item, processed) {
    if (!processed && !this.#isBehindPosition(item.epoch, item.message.serial)) {
      // The loop was left before it asked for the next one: the message is the first of whoever comes next.
      if (item.life === this.#life) this.#queue.unshift(item);
      return;
    }
    if (item.message.snapshot || item.life !== this.#life) return;
    this.#retryBackoff.reset();
    if (!this.#isBehindPosition(item.epoch, item.message.serial)) {
      this.#moveTo({ epoch: item.epoch, serial: item.message.serial });
    }
    this.#acknowledge(item);
  }

  /** @param {Item & { kind: "message" }} item */
  #acknowledge(item) {
    if (item.generation !== this.#generation || this.#state !== "attached") return;
    this.#processedAt = this.#line.clock.now();
    if (this.#cadence.processed(item.message.serial, item.size)) this.#line.sendAcks();
    else if (this.#cadence.isPending && this.#ackMs > 0 && !this.#ackTimer.isSet) this.#ackTimer.set(this.#ackMs);
  }

  #ackTime() {
    if (!this.#cadence.isPending) return;
    // `ack_ms` counts from the last processed message; the timer was set at an earlier one.
    const left = this.#processedAt + this.#ackMs - this.#line.clock.now();
    if (left > 0) this.#ackTimer.set(left);
    else this.#line.sendAcks();
  }

  /** @param {string | null} epoch @param {number} serial */
  #isBehindPosition(epoch, serial) {
    const at = this.#position;
    return at !== null && at.epoch === epoch && serial <= at.serial;
  }

  /** @param {Position} position */
  #moveTo(position) {
    this.#position = position;
    if (this.#isLevel) return;
    if (position.epoch === this.#tracker.epoch && position.serial >= this.#target) this.#isLevel = true;
    this.#events.onProgress();
    if (this.#isLevel) this.#line.changed();
  }

  /**
   * @param {StateLoader} loader
   * @param {Position} position
   * @returns {Promise<boolean>} Whether the pump may go on.
   */
  async #load(loader, position) {
    const life = this.#life;
    this.#mustLoad = false;
    try {
      const through = await loader(position);
      if (life !== this.#life) return true;
      const now = this.#position;
      const serial = typeof through === "number" ? through : isPosition(through) ? through.serial : position.serial;
      const epoch = isPosition(through) ? through.epoch : position.epoch;
      // The state that was loaded may stand further on than the position it was asked at, if it says so.
      if (now !== null && now.epoch === epoch && serial > now.serial) this.#moveTo({ epoch, serial });
      this.#loadBackoff.reset();
      for (const { resolve } of this.#loads.splice(0)) resolve();
      return true;
    } catch (cause) {
      if (life !== this.#life) return true;
      this.#mustLoad = true;
      this.#loadTimer.set(this.#loadBackoff.nextMs());
      this.#events.onError(new SeriatimError("load_state", undefined, { channel: this.#name, cause }));
      return false;
    }
  }
}
