"""What the results say: two tables, and what was aimed at beside what was reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from bench.machine import spread

T = TypeVar("T")

SATURATED = 0.9
"""Share of its core from which on the generator may have held the server back."""

NEIGHBOURS = 0.1
"""Share of the server's core that others took, from which on latencies and rates say little; so does the CPU, less."""

JOINED = 1.2
"""Messages a read from which on a pace is not live any more: a server that was late wrote several at once, or the
generator that was late read several at once; either makes deliveries cheaper."""

SLOW = ("1", "4", "40", "200")

Result = dict[str, Any]
Phase = dict[str, Any]


class Report:
    """Reads results as `bench.fanout.__main__` stores them. A ratio is taken round by round, before the median."""

    def __init__(self, results: Sequence[Result], titles: dict[str, str]) -> None:
        self.results = results
        self.titles = titles
        self.systems = _once(result["system"] for result in results)
        self.counts = _once(result["subscribers"] for result in results)
        self.paces = _once(phase["pace"] for result in results for phase in result["phases"])

    def of(self, system: str, subscribers: int) -> list[Result]:
        return [each for each in self.results if (each["system"], each["subscribers"]) == (system, subscribers)]

    def phases(self, system: str, subscribers: int, pace: str) -> dict[int, Phase]:
        """By round."""
        return {
            result["round"]: phase
            for result in self.of(system, subscribers)
            for phase in result["phases"]
            if phase["pace"] == pace and phase["delivered"] and phase["server_cpu_s"]
        }

    def rates(self, system: str, subscribers: int, pace: str) -> dict[int, float]:
        """Deliveries per server CPU second, by round."""
        found = self.phases(system, subscribers, pace)
        return {turn: phase["delivered"] / phase["server_cpu_s"] for turn, phase in found.items()}

    def ratios(self, system: str, other: str, subscribers: int, pace: str) -> list[float]:
        """How many times the deliveries of another system."""
        ours, theirs = self.rates(system, subscribers, pace), self.rates(other, subscribers, pace)
        return [ours[turn] / theirs[turn] for turn in ours if turn in theirs]

    def idle_share(self, system: str, subscribers: int) -> float | None:
        """CPU seconds a second while connections stand idle."""
        found = [each["idle"] for each in self.of(system, subscribers) if each["idle"]]
        return statistics.median(each["server_cpu_s"] / each["wall_s"] for each in found) if found else None

    def net_us(self, system: str, subscribers: int, pace: str) -> float | None:
        """CPU microseconds a delivery, without what the server uses while nothing is published."""
        found = self.phases(system, subscribers, pace)
        idle = self.idle_share(system, subscribers)
        if not found or idle is None:
            return None
        return _middle(
            found, lambda phase: max(0, phase["server_cpu_s"] - idle * phase["wall_s"]) / phase["delivered"] * 1e6
        )

    # ------------------------------------------------------------------ tables

    def deliveries(self) -> str:
        """What each system did at each pace. `a read`: messages that the generator got at once, because they were
        written so or because it came late."""
        lines = _head(
            "subscribers", "pace", "system", "deliveries per server CPU s", "to nchan", "µs kernel + user",
            "deliveries per s", "p50 ms", "p95", "p99", "max", "a read", "acks ‰", "generator", "marks",
        )  # fmt: skip
        for count in self.counts:
            for pace in self.paces:
                for system in self.systems:
                    found = self.phases(system, count, pace)
                    if pace.endswith("+http") and system != "seriatim":
                        continue
                    where = (f"{count:,}", pace, self.titles[system])
                    if not found:
                        lines.append(_line(*where, "failed"))
                        continue
                    ratios = self.ratios(system, "nchan", count, pace)
                    in_kernel = _middle(found, lambda phase: phase["server_system_s"] / phase["server_cpu_s"])
                    us = _middle(found, lambda phase: phase["server_cpu_s"] / phase["delivered"] * 1e6)
                    lines.append(
                        _line(
                            *where,
                            spread(list(self.rates(system, count, pace).values())),
                            spread(ratios, ".2f") if ratios else "",
                            f"{us * in_kernel:.1f} + {us * max(0, 1 - in_kernel):.1f}",
                            f"{_middle(found, lambda phase: phase['delivered'] / phase['wall_s']):,.0f}",
                            *[f"{_latency_ms(found, name):.1f}" for name in ("p50", "p95", "p99", "max")],
                            f"{_middle(found, lambda phase: phase['delivered'] / phase['reads']):.1f}",
                            f"{_middle(found, lambda phase: phase['acks'] / phase['delivered'] * 1e3):.1f}",
                            f"{_middle(found, _generator_share):.0%}",
                            "; ".join(marks(found.values())),
                        )
                    )
        return "\n".join(lines)

    def connections(self) -> str:
        lines = _head("subscribers", "system", "CPU ms a connection", "KB a connection", "CPU while idle")
        for count in self.counts:
            for system in self.systems:
                cpu, kb = self.connect_ms(system, count), self.connection_kb(system, count)
                idle = self.idle_share(system, count)
                lines.append(
                    _line(
                        f"{count:,}",
                        self.titles[system],
                        spread(cpu, ".3f") if cpu else "failed",
                        spread(kb, ".1f") if kb else "",
                        "" if idle is None else f"{idle:.2%}",
                    )
                )
        return "\n".join(lines)

    def connect_ms(self, system: str, subscribers: int) -> list[float]:
        found = [each["connected"] for each in self.of(system, subscribers) if each["connected"]]
        return [each["server_cpu_s"] / each["connections"] * 1e3 for each in found]

    def connection_kb(self, system: str, subscribers: int) -> list[float]:
        return [
            (each["idle"] or each["connected"])["server_kb"] / each["connected"]["connections"]
            for each in self.of(system, subscribers)
            if each["connected"]
        ]

    # ------------------------------------------------------------------ aims

    def aims(self) -> str:
        """Seriatim against what it is meant to reach, as far as these results can tell; (!) behind a figure that the
        marks of its rows put in question."""
        lines = _head("subscribers", "what", "aim", "reached")
        live = [pace for pace in self.paces if pace != "burst" and not pace.endswith("+http")]
        for count in self.counts:
            for other, aim in (("nchan", 0.75), ("ws", 1.5), ("channels", 30)):
                found = {pace: self.ratios("seriatim", other, count, pace) for pace in live}
                reached = ", ".join(
                    f"{statistics.median(each):.2f} at {pace}{self.doubt((other, 'seriatim'), count, pace)}"
                    for pace, each in found.items()
                    if each
                )
                if reached:
                    lines.append(_line(f"{count:,}", f"live, to {self.titles[other]}", f"≥ {aim}", reached))
            if reached := self.costs(count, [pace for pace in live if pace in SLOW]):
                lines.append(_line(f"{count:,}", "cost of a delivery to the best pace's, idle apart", "≤ 2", reached))
            if bursts := self.ratios("seriatim", "nchan", count, "burst"):
                doubt = self.doubt(("nchan", "seriatim"), count, "burst")
                lines.append(_line(f"{count:,}", "bursts, to nginx + nchan", "≥ 4", spread(bursts, ".1f") + doubt))
            if cpu := self.connect_ms("seriatim", count):
                lines.append(_line(f"{count:,}", "connect, token, attach: CPU ms", "≤ 1.0", spread(cpu, ".2f")))
                kb = spread(self.connection_kb("seriatim", count), ".1f")
                lines.append(_line(f"{count:,}", "KB an idle connection", "≤ 25", kb))
            if hammered := self.hammered(count, "200"):
                what = "p99 at 200 a second with REST and admin hammered, to that without"
                doubt = self.doubt(("seriatim",), count, "200", "200+http", cost=False)
                lines.append(_line(f"{count:,}", what, "≤ 3", spread(hammered, ".2f") + doubt))
            if latency := self.latency(count, "200"):
                what = "p99 at 200 a second without the commit's, to nchan's p99"
                doubt = self.doubt(("nchan", "seriatim"), count, "200", cost=False)
                lines.append(_line(f"{count:,}", what, "< 2", spread(latency, ".2f") + doubt))
        return "\n".join(lines)

    def costs(self, subscribers: int, paces: Sequence[str]) -> str:
        """What a delivery costs at each of these paces, to the cheapest of them. Those at which several messages went
        in one write are cheap for that reason: they are named, and compared with nothing."""
        known: dict[str, float] = {}
        joined: list[str] = []
        for pace in paces:
            cost = self.net_us("seriatim", subscribers, pace)
            at_once = _median(map(_joined, self.phases("seriatim", subscribers, pace).values())) if cost else 0
            if at_once > JOINED:
                joined.append(f"{pace} not one a write ({at_once:.1f} at once)")
            elif cost:
                known[pace] = cost
        compared = [
            f"{cost / min(known.values()):.2f} at {pace}{self.doubt(('seriatim',), subscribers, pace)}"
            for pace, cost in known.items()
            if len(known) > 1
        ]
        return ", ".join([*compared, *joined]) if compared else ""

    def doubt(self, systems: Sequence[str], subscribers: int, *paces: str, cost: bool = True) -> str:
        """A sign behind a figure that was made of rows whose marks put it in question; see `doubts`."""
        rows = [self.phases(system, subscribers, pace) for system in systems for pace in paces]
        return " (!)" if any(doubts(row.values(), cost=cost) for row in rows if row) else ""

    def latency(self, subscribers: int, pace: str) -> list[float]:
        """(p99 − the commit's own p99) / p99 of nchan, round by round."""
        ours, theirs = self.phases("seriatim", subscribers, pace), self.phases("nchan", subscribers, pace)
        commits = {
            each["round"]: each["commit_us"]["p99"] for each in self.of("seriatim", subscribers) if each["commit_us"]
        }
        return [
            max(0, ours[turn]["latency_us"]["p99"] - commits[turn]) / theirs[turn]["latency_us"]["p99"]
            for turn in ours
            if turn in theirs and turn in commits
        ]

    def hammered(self, subscribers: int, pace: str) -> list[float]:
        """p99 with requests besides / p99 without, round by round."""
        quiet = self.phases("seriatim", subscribers, pace)
        loud = self.phases("seriatim", subscribers, f"{pace}+http")
        return [loud[turn]["latency_us"]["p99"] / quiet[turn]["latency_us"]["p99"] for turn in loud if turn in quiet]

    def generator(self) -> str:
        """What the generator can take: reads of one delivery each a second, and where it was busiest."""
        floor = [
            phase["reads"] / phase["generator_cpu_s"]
            for count in self.counts
            for phase in self.phases("floor", count, "full").values()
        ]
        busiest = max((_generator_share(phase) for result in self.results for phase in result["phases"]), default=0)
        could = f"It read {max(floor):,.0f} times per second of its own CPU from the floor. " if floor else ""
        return f"The generator: {could}At most {busiest:.0%} of its core was used."


def marks(phases: Iterable[Phase]) -> list[str]:
    """What has to be known beside a figure."""
    found = list(phases)
    said = doubts(found)
    if asked := [each for phase in found for each in phase["beside"].values()]:
        rate = sum(each["requests"] for each in asked) / sum(phase["wall_s"] for phase in found)
        said.append(f"{rate:,.0f} requests a second besides")
    if database := sum(phase["database_cpu_s"] for phase in found):
        said.append(f"database {database / sum(phase['published'] for phase in found) * 1e6:,.0f} µs a message")
    return said


def doubts(phases: Iterable[Phase], *, cost: bool = True) -> list[str]:
    """What puts a figure in question; nothing when all went well. Messages that go in one write make a delivery cheap;
    a latency is what it is, so where that is the figure (`cost` False) they are no doubt."""
    found = list(phases)
    said = []
    for name in ("lost", "doubles", "disorder", "errors", "closed"):
        if total := sum(phase[name] for phase in found):
            said.append(f"**{total:,} {name}**")
    if unsent := sum(phase["unsent"] for phase in found):
        said.append(f"pace not held: {unsent / (unsent + sum(phase['published'] for phase in found)):.0%} not sent")
    if _median(_generator_share(phase) for phase in found) > SATURATED:
        said.append("**generator saturated**")
    if (joined := _median(map(_joined, found))) > JOINED and cost:
        said.append(f"not one a write: {joined:.1f} at once")
    others = _median(
        (phase["server_core_busy_s"] - phase["server_cpu_s"]) / phase["generator_wall_s"] for phase in found
    )
    if others > NEIGHBOURS:
        said.append(f"neighbours took {others:.0%} of the server's core")
    asked = [each for phase in found for each in phase["beside"].values()]
    if trouble := [each["trouble"] for each in asked if each["trouble"]]:
        said.append(f"**requests failed: {trouble[0]}**")
    return said


def _joined(phase: Phase) -> float:
    """Messages that came together where they should not."""
    return 0 if phase["pace"] == "burst" else float(phase["delivered"] / phase["reads"])


def _generator_share(phase: Phase) -> float:
    return float(phase["generator_cpu_s"] / phase["generator_wall_s"])


def _latency_ms(phases: dict[int, Phase], name: str) -> float:
    return _middle(phases, lambda phase: phase["latency_us"][name] / 1e3)


def _middle(phases: dict[int, Phase], figure: Callable[[Phase], float]) -> float:
    return _median(figure(phase) for phase in phases.values())


def _median(figures: Iterable[float]) -> float:
    return statistics.median(list(figures))


def _once(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*names: str) -> list[str]:
    return [_line(*names), f"|{'---|' * len(names)}"]
