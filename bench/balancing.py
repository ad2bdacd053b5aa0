"""Which worker gets the next connection: seven algorithms compared by a simulation. No server, no network, no clock.

    python -m bench.balancing            prints the table of docs/how-to/scale.md and draws docs/images/balancing.svg

Connections come one by one, stay for a while, and load their server by what they are sent. What a balancer counts
itself (connections) it knows at once; what it measures (bytes, response times) is of the second before, and what
servers report of themselves is up to five seconds old. That is what separates the algorithms: who acts on old news
sends a whole crowd to the server that was idle a moment ago. The same seed gives the same figures again.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from xml.sax.saxutils import escape

SVG = Path(__file__).resolve().parent.parent / "docs" / "images" / "balancing.svg"

SEEDS = (1, 2, 3)
SERVERS = 4
ARRIVALS_PER_S = 4.0
LIFE_S = 600.0
"""How long a connection lasts, in the mean: about 2,400 are open at a time."""
WARM_UP_S = 1200
"""Two lives, until as many go as come."""
WATCHED_S = 900
UTILISATION = 0.6
"""Of all servers together, in the mean."""
REPORT_S = 5
"""How often servers report their load."""
LOST_FOR_S = 20
"""How long a server that dies is away."""
CROWD_S = 3.0
"""Within which its clients come back."""
CROWD_WATCHED_S = 120


@dataclass
class Server:
    """One server, and what is known of it."""

    capacity: float
    """In units of load."""
    alive: bool = True
    connections: int = 0
    load: float = 0.0
    seen_load: float = 0.0
    """Bytes a second, as measured in the last second."""
    seen_response: float = 1.0
    """Response time, measured by requests of the last second."""
    reported: float = 0.0
    """What it said of itself last: the share of its capacity in use."""

    @property
    def utilisation(self) -> float:
        return self.load / self.capacity


@dataclass(frozen=True)
class Connection:
    address: str
    rate: float
    """What it is sent, in units of load."""


@dataclass(frozen=True)
class Use:
    """One kind of site. `rate` and `address` are of a new client."""

    name: str
    rate: Callable[[random.Random], float] = lambda dice: 1.0
    address: Callable[[random.Random], str] = lambda dice: f"10.{dice.getrandbits(24)}"
    capacities: Sequence[float] = (1.0,) * SERVERS
    """Relative to each other."""
    crowd: bool = False
    """One server dies, and all its clients come back at once."""


Choose = Callable[[Sequence[Server], Connection, random.Random, int], Server]
"""Of servers that are alive, for a connection; the number says how many were placed before."""


def _least(key: Callable[[Server], float]) -> Choose:
    """The lowest; the dice decide between equals, or the first would get all of them."""

    def choose(servers: Sequence[Server], connection: Connection, dice: random.Random, number: int) -> Server:
        lowest = min(key(server) for server in servers)
        return dice.choice([server for server in servers if key(server) == lowest])

    return choose


def _two_choices(servers: Sequence[Server], connection: Connection, dice: random.Random, number: int) -> Server:
    return min(dice.sample(servers, min(2, len(servers))), key=lambda server: server.connections)


ALGORITHMS: dict[str, Choose] = {
    "round robin": lambda servers, connection, dice, number: servers[number % len(servers)],
    "least connections": _least(lambda server: server.connections),
    "least bandwidth": _least(lambda server: server.seen_load),
    "least response time": _least(lambda server: server.seen_response),
    "hash of the address": lambda servers, connection, dice, number: servers[
        zlib.crc32(connection.address.encode()) % len(servers)
    ],
    "random, of two choices": _two_choices,
    "reported load": _least(lambda server: server.reported),
}


def _chatty(dice: random.Random) -> float:
    """Most are sent little, some a thousand times as much."""
    return min(200.0, 0.3 * dice.paretovariate(1.1))


def _campus(dice: random.Random) -> str:
    """Two fifths of all clients are behind three addresses."""
    return f"192.0.2.{dice.randrange(3)}" if dice.random() < 0.4 else f"10.{dice.getrandbits(24)}"


USES = (
    Use("all are sent the same"),
    Use("some are sent much more", rate=_chatty),
    Use("many behind one address", address=_campus),
    Use("machines of two sizes", capacities=(1.5, 1.5, 0.5, 0.5)),
    Use("a server dies, all come back", crowd=True),
)


@dataclass
class Run:
    """One simulation. `imbalance` has for each watched second how much more the busiest server has to do than it would
    if all had their share: 1 is even."""

    use: Use
    choose: Choose
    dice: random.Random
    servers: list[Server] = field(default_factory=list)
    imbalance: list[float] = field(default_factory=list)
    placed: int = 0
    _ends: list[tuple[float, int, Server, Connection]] = field(default_factory=list)
    _returning: list[tuple[float, int, Connection]] = field(default_factory=list)

    def place(self, now_s: float, connection: Connection) -> None:
        alive = [server for server in self.servers if server.alive]
        server = self.choose(alive, connection, self.dice, self.placed)
        self.placed += 1
        server.connections += 1
        server.load += connection.rate
        heappush(self._ends, (now_s + self.dice.expovariate(1 / LIFE_S), self.placed, server, connection))

    def go(self) -> None:
        dice, use = self.dice, self.use
        mean_rate = statistics.fmean(use.rate(dice) for _ in range(2000))
        unit = ARRIVALS_PER_S * LIFE_S * mean_rate / UTILISATION / sum(use.capacities)
        self.servers = [Server(capacity * unit) for capacity in use.capacities]
        next_s = 0.0
        for second in range(WARM_UP_S + (CROWD_WATCHED_S if use.crowd else WATCHED_S)):
            if use.crowd and second == WARM_UP_S:
                self._lose(self.servers[0], second)
            if use.crowd and second == WARM_UP_S + LOST_FOR_S:
                self.servers[0].alive = True
            self._look(second)
            while self._ends and self._ends[0][0] < second + 1:
                _, _, server, connection = heappop(self._ends)
                server.connections -= 1
                server.load -= connection.rate
            while self._returning and self._returning[0][0] < second + 1:
                at_s, _, connection = heappop(self._returning)
                self.place(at_s, connection)
            while next_s < second + 1:
                self.place(next_s, Connection(use.address(dice), use.rate(dice)))
                next_s += dice.expovariate(ARRIVALS_PER_S)
            if second >= WARM_UP_S:
                alive = [server for server in self.servers if server.alive]
                even = sum(server.load for server in alive) / sum(server.capacity for server in alive)
                self.imbalance.append(max(server.utilisation for server in alive) / even)

    def _lose(self, lost: Server, second: int) -> None:
        """Its clients come back within seconds, to whomever they are given."""
        lost.alive, lost.connections, lost.load = False, 0, 0.0
        for number, (_, _, server, connection) in enumerate(self._ends):
            if server is lost:
                heappush(self._returning, (second + self.dice.uniform(0, CROWD_S), number, connection))
        self._ends = [each for each in self._ends if each[2] is not lost]
        self._ends.sort()

    def _look(self, second: int) -> None:
        """What is measured and reported, as it is until the next look."""
        for server in self.servers:
            server.seen_load = server.load
            # A queue's response time, as a few requests show it.
            server.seen_response = self.dice.lognormvariate(0, 0.2) / (1 - min(server.utilisation, 0.98))
            if second % REPORT_S == 0:
                server.reported = server.utilisation


def imbalance(algorithm: str, use: Use) -> float:
    """How much more the busiest server has to do than its share: the 95 % quantile of all seconds, the median of all
    seeds."""
    found = []
    for seed in SEEDS:
        run = Run(use, ALGORITHMS[algorithm], random.Random(f"{seed}/{use.name}"))
        run.go()
        found.append(statistics.quantiles(run.imbalance, n=20)[-1])
    return statistics.median(found)


def compare() -> dict[tuple[str, str], float]:
    """By algorithm and use."""
    return {(algorithm, use.name): imbalance(algorithm, use) for algorithm in ALGORITHMS for use in USES}


def table(found: dict[tuple[str, str], float]) -> str:
    """As Markdown; the best of each use, and what is as good, is bold."""
    best = {use.name: min(found[algorithm, use.name] for algorithm in ALGORITHMS) for use in USES}
    lines = ["| | " + " | ".join(use.name for use in USES) + " |", "|---|" + "---|" * len(USES)]
    for algorithm in ALGORITHMS:
        cells = []
        for use in USES:
            value = found[algorithm, use.name]
            cells.append(f"**{value:.2f}**" if value <= best[use.name] * 1.05 else f"{value:.2f}")
        lines.append(f"| {algorithm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---------------------------------------------------------------------- the picture

COLOURS = ("#9aa3ad", "#c2410c", "#3a7d44", "#2563a8", "#6d5bb0", "#b08900", "#d9788a")
LEFT, TOP, PANEL, BAR, APART = 56, 48, 240, 18, 30


def draw(found: dict[tuple[str, str], float]) -> str:
    """Bars by use and algorithm; 1 is even, and the bars begin there."""
    most = math.ceil(max(found.values()) * 2) / 2
    group = BAR * len(ALGORITHMS)
    width = LEFT + len(USES) * (group + APART) + 10
    base = TOP + PANEL
    title = "What the busiest server has to do, as a multiple of its share"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {base + 112}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#223">',
        f"<title>{title}, by use and algorithm</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-weight="bold">{title}</text>',
    ]

    def above(value: float) -> float:
        return PANEL * (value - 1) / (most - 1)

    for step in range(int((most - 1) * 2) + 1):
        value = 1 + step / 2
        y = base - above(value)
        parts.append(f'<path d="M{LEFT} {y:.1f} H{width - 10}" stroke="#dde2e7"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place, use in enumerate(USES):
        x = LEFT + APART / 2 + place * (group + APART)
        parts.append(f'<text x="{x + group / 2}" y="{base + 20}" text-anchor="middle" font-size="11">{use.name}</text>')
        for number, algorithm in enumerate(ALGORITHMS):
            tall = above(found[algorithm, use.name])
            parts.append(
                f'<rect x="{x + number * BAR + 1}" y="{base - tall:.1f}" width="{BAR - 2}" height="{max(tall, 1):.1f}" '
                f'fill="{COLOURS[number]}"><title>{escape(algorithm)}: {found[algorithm, use.name]:.2f}</title></rect>'
            )
    across, y = float(LEFT), base + 44
    for number, algorithm in enumerate(ALGORITHMS):
        wide = 34 + 6.6 * len(algorithm)
        if across + wide > width:
            across, y = float(LEFT), y + 20
        parts.append(f'<rect x="{across:.0f}" y="{y}" width="11" height="11" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{across + 16:.0f}" y="{y + 10}" font-size="11">{escape(algorithm)}</text>')
        across += wide
    caption = (
        f"Simulated: {SERVERS} servers, about {ARRIVALS_PER_S * LIFE_S:,.0f} connections; 95 % quantile of all "
        f"seconds, median of {len(SEEDS)} seeds. python -m bench.balancing"
    )
    parts.append(f'<text x="{LEFT}" y="{y + 36}" fill="#667" font-size="11">{caption}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    found = compare()
    print(table(found))
    SVG.write_text(draw(found))
    print(f"\n{SVG}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
