// The requests of an HTTP transport, over the server in memory: reads are links that a test moves by hand, posts arrive
// after a while, or not at all, or lose their answers.

import { HttpSession } from "../src/http-session.js";
import { FakeLink } from "./server.js";

/**
 * @param {import("./server.js").FakeServer} server
 * @param {{ random?: () => number, trouble?: { loss: number } }} [options] `loss`: how many posts fail, half of them after
 *   they were read.
 */
export function fakeHttp(server, { random = () => 0.5, trouble = { loss: 0 } } = {}) {
  const { clock } = server;
  const broken = { status: null, error: null };
  /** @type {import("../src/http-session.js").Carrier} */
  const carrier = {
    read(wanted, token, { onOpen, onLine, onEnd }) {
      const link = server.open({
        protocols: token === null ? [] : [`seriatim.bearer.${token}`],
        onOpen() {
          onOpen();
          for (const { enter, ...entry } of wanted) {
            link.send(JSON.stringify({ type: "attach", window: 0, ...entry }));
            if (enter === undefined) continue;
            const answer = server.enter?.(entry.channel, enter) ?? { type: "ok", at: enter.at ?? clock.now() };
            server.link.write({ channel: entry.channel, action: "enter", ...answer });
          }
        },
        onText: onLine,
        onClose(code, reason) {
          if (code !== 1006) onLine(JSON.stringify({ type: "close", code, reason }));
          onEnd(code === 1006 && random() < 0.5 ? broken : null);
        },
      });
      return { abort: () => link.close(1000) };
    },
    post(frames, token, reader) {
      server.reader = reader;
      // Its answers gather until the post is answered.
      const link = new FakeLink(Object.create(server, { auto: { value: false } }), { protocols: [] });
      link.isReady = true;
      return new Promise((resolve, reject) => {
        clock.setTimeout(() => {
          const dice = random();
          if (dice < trouble.loss / 2) return reject(broken);
          for (const text of frames) link.handle(JSON.parse(text));
          if (dice < trouble.loss) return reject(broken);
          clock.setTimeout(() => resolve(link.toClient), random() * 200);
        }, random() * 200);
      });
    },
  };
  return { name: "http", open: (target) => new HttpSession({ carrier, clock, target }) };
}
