"""Writes the table of `REALTIME` in docs/reference/settings.md from realtime/conf.py.

    .seriatim/venv/bin/python -m scripts.settings_page

tests/test_docs.py fails when the page is not what this would write.
"""

from __future__ import annotations

from pathlib import Path

from realtime.conf import Key, keys

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"
BEGIN = "<!-- table of REALTIME: written by scripts/settings_page.py -->\n"
END = "<!-- end of the table -->\n"


def table() -> str:
    rows = (
        f"| `{name}` | {_default(key)} | {key.unit.replace('|', 'or')} | {key.reason} |\n"
        for name, key in keys().items()
    )
    return "| key | default | unit | why |\n|---|---|---|---|\n" + "".join(rows)


def page(text: str) -> str:
    """`text` with the part between the two marks replaced by the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE}: the two marks are missing.")
    return before + BEGIN + "\n" + table() + "\n" + END + after


def _default(key: Key[object]) -> str:
    default = key.default
    if isinstance(default, bool) or not isinstance(default, int):
        return f"`{default!r}`" if default or default is None else "empty"
    # Group digits as the reader says them; sizes also as what they are.
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if default >= size and default % size == 0:
            return f"{default:,} ({default // size} {unit})".replace(",", " ")
    return f"{default:,}".replace(",", " ")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
