"""Runs the suite of the SockJS protocol, 68 tests, against servers of its own: one worker, then three.

    python -m tests.conformance.sockjs ../sockjs-protocol    # a checkout of sockjs/sockjs-protocol

It is Python 2 code; the interpreter and what it imports are those of the Autobahn suite, which the first run fetches.
The exit status is 1 unless all of them pass.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tests.conformance.__main__ import FOLDER
from tests.conformance.autobahn import Suite, SuiteError
from tests.e2e.processes import ServerProcess
from tests.servers import Postgres, Redis

COUNT = 68
TIMEOUT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.sockjs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("checkout", type=Path, help="of the repository sockjs/sockjs-protocol")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3], help="of each run; 1 3 by default")
    given = parser.parse_args()
    script = given.checkout.resolve() / "sockjs-protocol.py"
    suite = Suite(FOLDER / "suite")
    try:
        if not script.exists():
            raise SuiteError(f"There is no {script}.")
        suite.fetch()
        for workers in given.workers:
            _run_on(suite, script, workers)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run_on(suite: Suite, script: Path, workers: int) -> None:
    if workers == 1:
        with ServerProcess(REALTIME_SOCKJS_TEST_SERVICES="1") as server:
            _run(suite, script, server)
        return
    with Postgres() as postgres, Redis() as redis:
        url = postgres.create_database("sockjs")
        with ServerProcess(
            database_url=url, workers=workers, REDIS_URL=redis.url, REALTIME_SOCKJS_TEST_SERVICES="1"
        ) as server:
            _run(suite, script, server)


def _run(suite: Suite, script: Path, server: ServerProcess) -> None:
    said = suite.script(script, TIMEOUT_S, SOCKJS_URL=server.url)
    ran = re.search(r"^Ran (\d+) tests", said, re.MULTILINE)
    if ran is None or int(ran[1]) != COUNT or not said.rstrip().endswith("OK"):
        raise SuiteError(said)
    print(f"{COUNT} tests passed with {server.count} worker{'s' if server.count > 1 else ''}.")


if __name__ == "__main__":
    sys.exit(main())
