"""All figures with their floors, in one table.

    python -m bench                  # about ten minutes
    python -m bench publish http     # some of them

What they mean, and what limits them, is in docs/explanation/performance.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench import connections, http, machine, publish, resume, scale, stalled, sweep
from bench.machine import Row

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "publish": publish.measure,
    "http": http.measure,
    "resume": resume.measure,
    "stalled": stalled.measure,
    "connections": connections.measure,
    "sweep": sweep.measure,
    "scale": scale.measure,
}


def main(names: list[str]) -> None:
    unknown = set(names) - set(MEASURES)
    if unknown:
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}.")
    rows: list[Row] = []
    for name in names or MEASURES:
        print(f"-- {name}", flush=True)
        rows += MEASURES[name]()
    print(f"\n{machine.describe()}\nMedian (least–most) of interleaved turns; figures per CPU second of the server.\n")
    print(machine.table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
