"""One message to many subscribers: Seriatim beside its peers and a floor, on the same work.

    python -m bench.fanout                                           # everything, about an hour
    python -m bench.fanout --systems floor,nchan,seriatim --subscribers 500 --pace 200,full,burst    # two minutes
    python -m bench.fanout --show .seriatim/bench/fanout-….json --plot fanout.svg
    python -m tests.servers postgres -- python -m bench.fanout …     # PostgreSQL

A pace is a number of messages a second, `full` (the next one when the last was answered: one message a write) or
`burst` (many unanswered). `200+http` is 200 a second while REST and the admin are hammered, Seriatim only. Rounds are
interleaved: each runs every system once, so that what the neighbours do hits all alike. What is measured and what the
marks mean: docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from bench import machine, wire
from bench.fanout import check, database, hammer, install, load, plot
from bench.fanout.report import Report
from bench.fanout.systems import SYSTEMS, System, running

MESSAGES_LEAST = 10
"""A slow pace is measured for as many messages, however few seconds are asked for."""

HTTP = "+http"
"""After a pace: requests are made besides."""

PROBED_PACE = "200"
"""At which latency is judged, so that a commit is measured alone at it, too."""


def main() -> None:
    options = arguments()
    if options.show:
        stored = json.loads(options.show.read_text())
    else:
        stored = measure(options)
        load.STATE.mkdir(parents=True, exist_ok=True)
        where = options.json or load.STATE / f"fanout-{time.strftime('%Y%m%d-%H%M%S')}.json"
        where.write_text(json.dumps(stored, indent=1))
        print(f"\n{where}")
    report = Report(stored["results"], {name: system.title for name, system in SYSTEMS.items()})
    print(f"\n{stored['machine']}; median (least–most) of {stored['rounds']} interleaved rounds.\n")
    print(f"{report.deliveries()}\n\n{report.connections()}\n\n{report.aims()}\n\n{report.generator()}")
    if options.plot:
        options.plot.write_text(plot.draw(report, f"{stored['machine']}; 200-byte messages; medians."))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="default: %(default)s")
    parser.add_argument("--subscribers", default="500,4000", help="default: %(default)s")
    parser.add_argument("--pace", default="1,4,40,200,full,burst", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="of each pace, 10 messages at least; default 3")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--idle", type=float, default=3, help="seconds that connections first stand idle; default 3")
    parser.add_argument("--burst", type=int, default=64, help="publications unanswered in a burst; default 64")
    parser.add_argument(
        "--reader",
        choices=("nap", "sleep", "spin"),
        default="nap",
        help="what the generator does when there is nothing to read; `sleep` has the server wake it; default nap",
    )
    parser.add_argument(
        "--no-acks", action="store_true", help="Seriatim's subscribers never acknowledge; only for short runs"
    )
    parser.add_argument("--json", type=Path, help="where results go instead of .seriatim/bench/")
    parser.add_argument("--show", type=Path, help="only report results that were stored")
    parser.add_argument("--plot", type=Path, help="also draw them there, as SVG")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds. A peer that cannot be installed is left out, and that is said."""
    names = options.systems.split(",")
    if unknown := set(names) - set(SYSTEMS):
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}.")
    counts = [int(count) for count in options.subscribers.split(",")]
    paces = options.pace.split(",")
    if wrong := [pace for pace in paces if not rate(pace) and pace not in ("full", "burst")]:
        raise SystemExit(f"No pace: {', '.join(wrong)}. A pace is a number of messages a second, full or burst.")
    load.allow_files(max(counts) + 1)
    machine.pin_generator()
    prove_generator()
    for name in list(names):
        try:
            SYSTEMS[name].install()
        except install.Missing as error:
            print(f"{SYSTEMS[name].title} is left out. {error}", flush=True)
            names.remove(name)

    plan = [(pace, max(options.seconds, MESSAGES_LEAST / rate(pace) if rate(pace) else 0)) for pace in paces]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="seriatim-fanout-") as folder:
        for subscribers in counts:
            for turn in range(options.rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    started = time.monotonic()
                    found = one(SYSTEMS[name], Path(folder), subscribers, plan, options)
                    results.append({"system": name, "subscribers": subscribers, "round": turn, **found})
                    took_s = time.monotonic() - started
                    print(f"{subscribers} subscribers, round {turn + 1}: {name}, {took_s:.0f} s", flush=True)
    results.sort(
        key=lambda result: (counts.index(result["subscribers"]), names.index(result["system"]), result["round"])
    )
    return {"machine": machine.describe(), "rounds": options.rounds, "results": results}


def rate(pace: str) -> int:
    """Messages a second; 0 for paces that are none."""
    number = pace.removesuffix(HTTP)
    return int(number) if number.isdigit() else 0


def prove_generator() -> None:
    """Has a generator that was newly built find faults before it is trusted."""
    proven = load.build("load").with_suffix(".proven")
    if not proven.exists():
        print("Proving the load generator …", flush=True)
        check.generator()
        proven.touch()


def one(
    system: System, folder: Path, subscribers: int, plan: Sequence[tuple[str, float]], options: argparse.Namespace
) -> dict[str, Any]:
    """One system, started for this, through all paces."""
    commit_us: dict[str, float] = {}
    given: dict[str, object] = {"idle": options.idle, "burst": options.burst, "reader": options.reader}
    given.update(system.options)
    if system.name != "seriatim":
        plan = [(pace, seconds) for pace, seconds in plan if not pace.endswith(HTTP)]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        own = Path(name)
        if system.name == "seriatim":
            tokens = own / "tokens"
            # One for each, as real clients have: a worker may not know any of them.
            tokens.write_text("".join(wire.token(f"bench-{number}") + "\n" for number in range(subscribers + 1)))
            given.update(tokens=tokens, acks=int(not options.no_acks), database=database.postmaster())
        try:
            with running(system, own, subscribers + 1) as (port, pids):

                def beside(pace: str) -> AbstractContextManager[dict[str, Any]]:
                    return hammer.running(port, wire.token()) if pace.endswith(HTTP) else nullcontext({})

                loaded = load.run(system.name, port, pids, subscribers, plan, given, beside)
        except (SystemExit, subprocess.CalledProcessError) as error:
            loaded = load.Loaded(trouble=f"did not start. {error}")
        if loaded.trouble:
            print(f"{system.title}: {loaded.trouble}", flush=True)
        elif system.name == "seriatim" and PROBED_PACE in dict(plan):
            commit_us = database.commit_us(own, int(PROBED_PACE))
    return {**vars(loaded), "commit_us": commit_us}


if __name__ == "__main__":
    main()
