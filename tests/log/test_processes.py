"""Several processes publish to the same channels (PostgreSQL)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest
from django.db import connection

from realtime.protocol.names import ChannelName
from tests.log.publisher import BAD_EVERY, CHANNELS_COUNT, TURNS
from tests.log.world import check_log, other_connection

PROCESSES = 4


@pytest.mark.postgres
@pytest.mark.usefixtures("refusing_rows")
def test_four_processes_give_serials_without_a_hole_and_without_a_deadlock() -> None:
    """Shared ids, own ids, bad rows and chains behind them; the channels are made by whoever comes first."""
    at = connection.settings_dict
    url = f"postgres://{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.log.publisher", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        )
        for number in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        with other_connection() as other:
            before = _deadlocks(other)
        outputs = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert "is repeated" not in err
            outputs.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with other_connection() as other:
        assert _deadlocks(other) == before

    serials: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    duplicates = 0
    for number, answers in enumerate(outputs):
        accepted, refused = answers[: 4 * TURNS], answers[4 * TURNS :]
        assert len(refused) == 2 * TURNS // BAD_EVERY
        assert {(bad[3], after[3]) for bad, after in zip(*[iter(refused)] * 2, strict=True)} == {("internal", "order")}
        for turn in range(TURNS):
            *shared, first = accepted[4 * turn : 4 * turn + 4]
            for channel, client, ids, outcome, known in (*shared, first):
                duplicates += len(known)
                for mid, serial in zip(ids, outcome, strict=True):
                    serials[channel, client, mid].add(serial)
            # What one publisher sent in order is in order.
            earlier = accepted[4 * (turn - CHANNELS_COUNT) + 3] if turn >= CHANNELS_COUNT else None
            assert earlier is None or earlier[3][0] < first[3][0], (number, turn)
    assert all(len(each) == 1 for each in serials.values())
    assert duplicates > TURNS
    stored: dict[tuple[str, str, str], set[int]] = {}
    for i in range(CHANNELS_COUNT):
        name = ChannelName(f"process{i}")
        retained = check_log(name)
        assert retained[0].serial == 1
        stored.update({(name, row.client, row.mid): {row.serial} for row in retained})
    assert stored == serials


def _deadlocks(other: Any) -> int:
    other.execute("SELECT pg_stat_clear_snapshot()")
    return int(other.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()[0])
