"""One message to many subscribers: Seriatim beside its peers and a floor, on the same work.

    python -m bench.fanout                                                       # all of it, about forty minutes
    python -m bench.fanout --systems floor,nchan,seriatim --subscribers 500 --pace 200,full,burst --rounds 3

The rounds are interleaved: each runs every system once, so that what the neighbours do hits all alike. What is measured,
and what the marks mean, is in docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine, wire
from bench.fanout import load, peers
from bench.fanout.systems import SYSTEMS, System, running

MESSAGES_LEAST = 10
"""A slow pace is measured for as many messages, however few seconds are asked for."""
SATURATED = 0.9
"""Share of its core from which on the generator may have held the server back."""


def phases(paces: Sequence[str], seconds: float) -> list[tuple[str, float]]:
    return [(pace, max(seconds, MESSAGES_LEAST / float(pace)) if pace.isdigit() else seconds) for pace in paces]


def one(
    system: System, folder: Path, subscribers: int, plan: Sequence[tuple[str, float]], options: argparse.Namespace
) -> load.Loaded:
    """One system, started for this, through all paces."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        more: dict[str, object] = {
            "idle": options.idle,
            "burst": options.burst,
            "reader": options.reader,
            "acks": int(not options.no_acks),
        }
        if system.name == "seriatim":
            tokens = Path(own) / "tokens"
            tokens.write_text("".join(wire.token(f"bench-{number}") + "\n" for number in range(subscribers + 1)))
            more["tokens"] = tokens
        with running(system, Path(own), subscribers + 1) as server:
            loaded = load.run(system.name, server.port, server.pids, subscribers, plan, **more)
        if loaded.trouble:
            log = (Path(own) / "log").read_text(errors="replace")[-1500:]
            print(f"{system.title}: {loaded.trouble}\n{log}", flush=True)
        return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="of %(default)s")
    parser.add_argument("--subscribers", default="500,4000", help="default %(default)s")
    parser.add_argument(
        "--pace", default="1,4,40,200,full,burst", help="messages a second, full or burst; default %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of each phase; default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument(
        "--idle", type=float, default=1, help="seconds that connections stand idle first; default %(default)s"
    )
    parser.add_argument("--burst", type=int, default=64, help="publications unanswered in a burst; default %(default)s")
    parser.add_argument(
        "--reader", choices=("nap", "sleep", "spin"), default="nap", help="how the generator waits; see load.c"
    )
    parser.add_argument(
        "--no-acks", action="store_true", help="Seriatim's subscribers never acknowledge (short runs only)"
    )
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args()

    names = options.systems.split(",")
    if unknown := set(names) - set(SYSTEMS):
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}.")
    counts = [int(count) for count in options.subscribers.split(",")]
    load.allow_files(max(counts) + 1)
    machine.pin_generator()
    for name in list(names):
        try:
            SYSTEMS[name].prepare()
        except peers.Missing as error:
            print(f"{SYSTEMS[name].title} is left out. {error}", flush=True)
            names.remove(name)

    plan = phases(options.pace.split(","), options.seconds)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="seriatim-fanout-") as folder:
        for subscribers in counts:
            for turn in range(options.rounds):
                for name in names:
                    started = time.monotonic()
                    loaded = one(SYSTEMS[name], Path(folder), subscribers, plan, options)
                    results.append({"system": name, "subscribers": subscribers, "round": turn, **vars(loaded)})
                    print(
                        f"  {subscribers} subscribers, round {turn + 1}: {name}, {time.monotonic() - started:.0f} s",
                        flush=True,
                    )
    where = options.json or load.STATE / f"fanout-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.json"
    where.write_text(
        json.dumps({"machine": machine.describe(), "options": vars(options), "results": results}, default=str)
    )
    print(f"\n{machine.describe()}\n\n{table(results, names, counts, [pace for pace, _ in plan])}\n\n{where}")


def table(results: Sequence[dict[str, Any]], names: Sequence[str], counts: Sequence[int], paces: Sequence[str]) -> str:
    lines = [
        "| subscribers | pace | system | deliveries per server CPU s | to nchan | µs in kernel / user | wall rate | p50 / p99 / max ms | acks ‰ | reads ‰ | generator | losses |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def rates(name: str, count: int, pace: str) -> dict[int, float]:
        return {
            result["round"]: phase["delivered"] / phase["server_cpu_s"]
            for result in results
            if (result["system"], result["subscribers"]) == (name, count)
            for phase in result["phases"]
            if phase["pace"] == pace and phase["server_cpu_s"]
        }

    for count in counts:
        for pace in paces:
            nchan = rates("nchan", count, pace)
            for name in names:
                own = rates(name, count, pace)
                found = [
                    phase
                    for result in results
                    if (result["system"], result["subscribers"]) == (name, count)
                    for phase in result["phases"]
                    if phase["pace"] == pace and phase["delivered"]
                ]
                if not found:
                    lines.append(f"| {count} | {pace} | {name} | failed |")
                    continue
                ratios = [own[turn] / nchan[turn] for turn in own if turn in nchan]
                middle = lambda key: statistics.median(key(phase) for phase in found)
                delivered = middle(lambda p: p["delivered"])
                system_us = middle(lambda p: p["server_system_s"] / p["delivered"] * 1e6)
                all_us = middle(lambda p: p["server_cpu_s"] / p["delivered"] * 1e6)
                busy = middle(lambda p: p["generator_cpu_s"] / p["generator_wall_s"])
                lost = sum(p["lost"] + p["doubles"] + p["disorder"] + p["errors"] for p in found)
                unsent = sum(p["unsent"] for p in found)
                lines.append(
                    f"| {count} | {pace} | {name} | {machine.spread(list(own.values()))} | "
                    f"{machine.spread(ratios, '.2f') if ratios else ''} | {system_us:.2f} / {all_us - system_us:.2f} | "
                    f"{middle(lambda p: p['delivered'] / p['wall_s']):,.0f} | "
                    f"{middle(lambda p: p['latency_us']['p50']) / 1e3:.2f} / {middle(lambda p: p['latency_us']['p99']) / 1e3:.2f} / "
                    f"{middle(lambda p: p['latency_us']['max']) / 1e3:.1f} | {middle(lambda p: p['acks'] / p['delivered'] * 1e3):.1f} | "
                    f"{middle(lambda p: p['reads'] / p['delivered'] * 1e3):.0f} | {busy:.0%}{' SATURATED' if busy > SATURATED else ''} | "
                    f"{lost or ''}{f' pace not held ({unsent} unsent)' if unsent else ''} |"
                )
    lines += [
        "",
        "| subscribers | system | CPU ms per connection | KB per connection | idle CPU |",
        "|---|---|---|---|---|",
    ]
    for count in counts:
        for name in names:
            found = [r for r in results if (r["system"], r["subscribers"]) == (name, count) and r["connected"]]
            if found:
                lines.append(
                    f"| {count} | {name} | "
                    f"{machine.spread([r['connected']['server_cpu_s'] / r['connected']['connections'] * 1e3 for r in found], '.3f')} | "
                    f"{machine.spread([r['connected']['server_kb'] / r['connected']['connections'] for r in found], '.1f')} | "
                    + (
                        f"{statistics.median(r['idle']['server_cpu_s'] / r['idle']['wall_s'] for r in found if r['idle']):.2%} |"
                        if any(r["idle"] for r in found)
                        else " |"
                    )
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
