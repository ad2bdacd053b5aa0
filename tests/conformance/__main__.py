"""Runs the Autobahn suite against the echo, and fails when a case fails.

    python -m tests.conformance                          # all 517 cases, ten minutes to an hour
    python -m tests.conformance --cases "5.*" "9.7.*"    # some
    python -m tests.conformance --through asgi           # messages by ASGI, as a project's own consumers get them

The client's report stays in .seriatim/autobahn/report/index.html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.autobahn import Suite, SuiteError
from tests.conformance.server import Echo

FOLDER = Path(__file__).resolve().parents[2] / ".seriatim" / "autobahn"

GROUPS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "automatic fragmentation",
    12: "compression, by size",
    13: "compression, by parameters",
}

CASES = [f"{group}.*" for group in GROUPS]
COUNT = 517


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE", help='as "5.*"; all but those by default')
    parser.add_argument("--through", choices=["socket", "asgi"], default="socket", help="the way of the messages")
    parser.add_argument("--timeout", type=float, default=7200, metavar="S", help="of the whole run, in seconds")
    given = parser.parse_args()
    suite = Suite(FOLDER / "suite")
    try:
        suite.fetch()
        with Echo() as echo:
            url = f"ws://127.0.0.1:{echo.port}/{'echo' if given.through == 'socket' else 'asgi'}"
            groups = suite.run(url, given.cases, FOLDER / "report", given.timeout)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 2
    print("| group | | cases | OK | informational | not strict | failed |\n|---|---|---|---|---|---|---|")
    for each in groups:
        what, loose, failed = GROUPS.get(each.number, ""), *(", ".join(names) for names in (each.loose, each.failed))
        print(f"| {each.number} | {what} | {each.count} | {each.ok} | {each.informational} | {loose} | {failed} |")
    count, bad = sum(each.count for each in groups), sum(len(each.failed) for each in groups)
    loosely = sum(len(each.loose) for each in groups)
    print(f"\n{count} cases, {bad} failed, {loosely} passed by a loose reading.")
    if given.cases == CASES and count != COUNT:
        print(f"There are {COUNT}: the suite did not run all of them.", file=sys.stderr)
        return 2
    # An application behind ASGI answers later: what was sent just before an error finds the connection closing.
    return 1 if bad or not count or (loosely and given.through == "socket") else 0


if __name__ == "__main__":
    sys.exit(main())
