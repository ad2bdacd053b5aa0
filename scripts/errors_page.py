"""Writes the tables of docs/reference/errors.md from realtime/protocol/errors.py.

    .seriatim/venv/bin/python -m scripts.errors_page

tests/protocol/test_errors_page.py fails when the page is not what this would write.
"""

from __future__ import annotations

from pathlib import Path

from realtime.protocol.errors import CLOSES, ERRORS, plain_close_code

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md"
BEGIN = "<!-- {name}: written by scripts/errors_page.py -->\n"
END = "<!-- end of {name} -->\n"


def errors() -> str:
    rows = (
        f"| `{row.code}` | {row.http_status} | {row.fault} | {'yes' if row.retry else 'no'} "
        f"| {row.meaning} | {row.remedy} |\n"
        for row in ERRORS.values()
    )
    return "| code | HTTP | fault | again | meaning | what to do |\n|---|---|---|---|---|---|\n" + "".join(rows)


def closes() -> str:
    rows = (
        f"| {row.code} | {plain_close_code(row.code)} | `{row.name}` | `{row.reconnect}` | {row.meaning} "
        f"| {row.remedy} |\n"
        for row in CLOSES.values()
    )
    return "| code | plain | name | reconnect | meaning | what to do |\n|---|---|---|---|---|---|\n" + "".join(rows)


def page(text: str) -> str:
    """`text` with the parts between the marks replaced by the tables as they should be."""
    for name, table in (("errors", errors()), ("closes", closes())):
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE}: the marks of {name} are missing.")
        text = before + begin + "\n" + table + "\n" + end + after
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
