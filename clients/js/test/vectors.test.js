// The vectors that the server and the Python SDK are tested against, too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Backoff } from "../src/backoff.js";
import { CLOSES, ERRORS, meantCode, reconnectAfter } from "../src/codes.js";
import { DataReader } from "../src/data-reader.js";
import { SeriatimError } from "../src/errors.js";
import { applyDelta, DeltaError } from "../src/fossil.js";
import { parseFrame } from "../src/frames.js";
import { isClientId, isCursorName, isEpoch, isEvent, isKey, isMessageId, namespaceOf } from "../src/names.js";
import { checkFrom } from "../src/position.js";

const vectors = (name) => {
  const rows = JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), "utf8"));
  assert.ok(rows.length > 0);
  return rows;
};

test("positions: the forms of `from` are those of the wire", () => {
  for (const { name, given, want, error } of vectors("positions")) {
    if (error) {
      assert.throws(() => checkFrom(given), { code: error }, name);
      continue;
    }
    const from = checkFrom(given);
    if (typeof given === "string") assert.equal(from, want.form, name);
    else {
      const value = want.count ?? want.time ?? want.cursor ?? want.serial;
      const field = want.form === "resume" ? "serial" : want.form;
      assert.equal(from[field], value, name);
    }
  }
});

test("names: what is one, and its namespace", () => {
  const checks = {
    client: isClientId,
    id: isMessageId,
    event: isEvent,
    key: isKey,
    cursor: isCursorName,
    epoch: isEpoch,
  };
  for (const { name, given, want, error } of vectors("names")) {
    const [kind, value] = Object.entries(given)[0];
    if (kind === "channel") assert.equal(namespaceOf(value), error ? null : want.namespace, name);
    else assert.equal(checks[kind](value), want, name);
  }
});

test("deltas: what a client makes of them", () => {
  const bytes = (text) => new TextEncoder().encode(text);
  for (const { name, given, want, error } of vectors("deltas")) {
    if (given.frames) assert.deepEqual(dataOf(given.frames), want, name);
    else if (error) assert.throws(() => applyDelta(bytes(given.base), bytes(given.delta)), DeltaError, name);
    else assert.equal(new TextDecoder().decode(applyDelta(bytes(given.base), bytes(given.delta))), want, name);
  }
});

function dataOf(frames) {
  const reader = new DataReader();
  const found = [];
  for (const frame of frames) {
    if (frame.type === "attached") reader.begin(frame.delta);
    else if (frame.type === "skipped") reader.forget();
    else {
      try {
        found.push(reader.read(frame));
      } catch (error) {
        assert.ok(error instanceof DeltaError);
        found.push("error");
      }
    }
  }
  return found;
}

test("backoff: full jitter after the cap", () => {
  for (const { name, given, want } of vectors("backoff")) {
    const backoff = new Backoff({ firstMs: given.base_ms, capMs: given.cap_ms }, () => given.random);
    for (let i = 0; i < given.attempt; i++) backoff.nextMs();
    assert.equal(backoff.nextMs(), want, name);
  }
});

test("errors: codes, and what to do about a close", () => {
  const codes = new Set();
  const closes = new Set();
  for (const { name, given, want } of vectors("errors")) {
    if (want.type === "error") {
      const error = SeriatimError.fromFrame(want);
      assert.equal(error.code, want.code, name);
      assert.equal(error.retryAfterMs, want.retry_after_ms ?? null, name);
    } else if (given.code !== undefined) {
      const { httpStatus, fault, retry } = ERRORS[given.code];
      assert.deepEqual({ http_status: httpStatus, fault, retry }, want, name);
      codes.add(given.code);
    } else {
      assert.equal(reconnectAfter(given.close), want.reconnect, name);
      // A plain ASGI server says another code for the same.
      if (want.plain !== undefined && want.plain !== given.close)
        assert.equal(meantCode(want.plain), given.close, name);
      closes.add(given.close);
    }
  }
  assert.deepEqual(new Set(Object.keys(ERRORS)), codes, "the table has no code that the vectors do not know");
  for (const code of Object.keys(CLOSES)) assert.ok(closes.has(Number(code)), `close ${code} is in the vectors`);
});

test("envelopes: a message frame is read as it was written", () => {
  for (const { name, given, want } of vectors("envelopes")) {
    if (typeof want !== "string") continue;
    const frame = parseFrame(want);
    assert.equal(frame.type, "message", name);
    assert.equal(frame.serial, given.serial, name);
    assert.equal(frame.client, given.client === "" ? null : given.client, name);
    assert.equal(frame.event, given.message.event, name);
    assert.deepEqual(frame.data, JSON.parse(given.message.data), name);
  }
});
