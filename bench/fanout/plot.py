"""Draws the comparison as SVG: deliveries per server CPU second, by pace and system, on a logarithmic scale."""

from __future__ import annotations

import math
import statistics
from xml.sax.saxutils import escape

from bench.fanout.report import Report

COLOURS = {
    "floor": "#9aa3ad",
    "nchan": "#3a7d44",
    "seriatim": "#c2410c",
    "ws": "#2563a8",
    "socketio": "#6d5bb0",
    "channels": "#b08900",
    "channels-redis": "#d9c27a",
}
WIDTH, PANEL, LEFT, TOP, BOTTOM, BAR, APART = 860, 240, 92, 44, 46, 16, 26


def draw(report: Report, caption: str) -> str:
    """A panel for each number of subscribers; bars are medians."""
    paces = [pace for pace in report.paces if not pace.endswith("+http")]
    found = {
        (count, pace, system): statistics.median(rates.values())
        for count in report.counts
        for pace in paces
        for system in report.systems
        if (rates := report.rates(system, count, pace))
    }
    least = math.floor(math.log10(min(found.values())))
    most = max(least + 1, math.ceil(math.log10(max(found.values()))))
    group = BAR * len(report.systems)
    width = max(WIDTH, LEFT + len(paces) * (group + APART) + APART)
    height = len(report.counts) * (TOP + PANEL + BOTTOM) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#223">',
        "<title>Deliveries per server CPU second, by pace and system</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]

    def above(value: float) -> float:
        return PANEL * (math.log10(value) - least) / (most - least)

    for place, count in enumerate(report.counts):
        base = place * (TOP + PANEL + BOTTOM) + TOP + PANEL
        title = f"{count:,} subscribers: deliveries per server CPU second"
        parts.append(f'<text x="{LEFT}" y="{base - PANEL - 16}" font-weight="bold">{title}</text>')
        for power in range(least, most + 1):
            y = base - above(10**power)
            parts.append(f'<path d="M{LEFT} {y:.1f} H{width - 10}" stroke="#dde2e7"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
        for at, pace in enumerate(paces):
            x = LEFT + APART + at * (group + APART)
            name = f"{pace} a second" if pace.isdigit() else pace
            parts.append(f'<text x="{x + group / 2}" y="{base + 20}" text-anchor="middle">{escape(name)}</text>')
            for number, system in enumerate(report.systems):
                value = found.get((count, pace, system))
                if value is None:
                    continue
                tall = above(value)
                parts.append(
                    f'<rect x="{x + number * BAR + 1}" y="{base - tall:.1f}" width="{BAR - 2}" height="{tall:.1f}" '
                    f'fill="{COLOURS[system]}"><title>{escape(report.titles[system])}: {value:,.0f}</title></rect>'
                )
    across, y = float(LEFT), height - 36
    for system in report.systems:
        parts.append(f'<rect x="{across}" y="{y - 10}" width="11" height="11" fill="{COLOURS[system]}"/>')
        parts.append(f'<text x="{across + 16}" y="{y}">{escape(report.titles[system])}</text>')
        across += 32 + 7.4 * len(report.titles[system])
    parts.append(f'<text x="{LEFT}" y="{height - 12}" fill="#667" font-size="11">{escape(caption)}</text>')
    return "\n".join([*parts, "</svg>", ""])
