"""A publishing process of test_processes: `python -m tests.log.publisher NUMBER` with DATABASE_URL set.

Waits for a line on its input, publishes, and writes one JSON line: what each of its appends came to.
"""

from __future__ import annotations

import json
import random
import sys

import django

CHANNELS_COUNT = 6
TURNS = 150
BAD_EVERY = 5


def main(number: int) -> None:
    django.setup()
    from realtime.log import Append, LogWriter, News, Published, read_states
    from realtime.protocol.errors import ProtocolError
    from realtime.protocol.names import ChannelName
    from tests.log.world import message

    channels = [ChannelName(f"process{i}") for i in range(CHANNELS_COUNT)]
    chance = random.Random(number)
    told: list[Append] = []

    def on_round(appends: list[Append], news: list[News]) -> None:
        told.extend(appends)

    read_states(channels)  # connected
    writer = LogWriter(on_round)
    writer.start()
    print("ready", flush=True)
    sys.stdin.readline()
    submitted: list[Append] = []
    refused: list[Append] = []
    for turn in range(TURNS):
        # All processes publish these, in any order of channels; whoever is first gives the serial.
        names = chance.sample(channels, 3)
        for name in names:
            submitted.append(
                Append(name, "all", [message(f"shared{turn}"), message(f"also{turn}", key=f"k{turn % 7}")])
            )
        first = Append(channels[turn % CHANNELS_COUNT], f"c{number}", [message(f"own{turn}")])
        turns: list[Append] = [*submitted[-3:], first]
        submitted.append(first)
        if turn % BAD_EVERY == 0:
            bad = Append(first.channel, f"c{number}", [message(f"fine{turn}"), message("bad")], previous=first)
            after = Append(first.channel, f"c{number}", [message(f"after{turn}")], previous=bad)
            refused += [bad, after]
            turns += [bad, after]
        for each in turns:
            writer.submit(each)
    if not writer.stop(60):
        raise SystemExit("The writer did not finish.")
    assert len(told) == len(submitted) + len(refused)
    answers: list[tuple[str, str, list[str | None], list[int] | str, list[int]]] = []
    for each in submitted + refused:
        ids = [m.id for m in each.messages]
        outcome = each.outcome
        if isinstance(outcome, Published):
            answers.append((each.channel, each.client, ids, outcome.serials, outcome.duplicates))
        else:
            assert isinstance(outcome, ProtocolError)
            answers.append((each.channel, each.client, ids, outcome.code, []))
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
