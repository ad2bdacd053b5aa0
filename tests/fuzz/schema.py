"""The HTTP interface against its own description: schemathesis with every check, at a real server.

    python -m tests.fuzz.schema --examples 50 --seed 7 --database postgres

The exit status is 1 when a check failed, when the server wrote a traceback or answered no more.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import venv
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.processes import ServerProcess
from tests.servers import Postgres

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-schemathesis.txt"

CONFIGURATION = """
# The messages of a channel are a list, which is empty after it was emptied, and not gone.
[[operations]]
include-path = "/api/v1/channels/{name}/messages"
include-method = "DELETE"
checks.use_after_free.enabled = false

[[operations]]
include-path = "/api/v1/channels/{name}/messages"
include-method = "GET"
checks.use_after_free.enabled = false
"""

PREPARE = """
from realtime.models import Namespace
from realtime.publishing import publish
from realtime.tokens import create_api_key
Namespace.objects.get_or_create(name="fuzz", defaults={"presence": True})
publish("fuzz:1", {"n": 1})
print("key:" + create_api_key("fuzz", {"*": ["*"]})[1])
"""


def tool() -> Path:
    """The program, installed when it is not there in the version that is asked for."""
    folder = ROOT / ".seriatim" / "schemathesis"
    asked, have = REQUIREMENTS.read_text(), folder / "installed.txt"
    if not have.exists() or have.read_text() != asked:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        have.write_text(asked)
    return folder / "bin" / "schemathesis"


def run(server: ServerProcess, *, examples: int, seed: int, only: str | None) -> bool:
    """Whether every check held, and the server does as before."""
    key = server.manage("shell", "-c", PREPARE).rpartition("key:")[2].strip()
    before, told = server.rss_bytes(), len(server.log_text())
    configuration = server.folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = [
        str(tool()),
        "--config-file",
        str(configuration),
        "run",
        f"{server.url}/api/schema",
        "--checks",
        "all",
        "--seed",
        str(seed),
    ]
    command += ["--max-examples", str(examples), "-H", f"Authorization: Bearer {key}", "--request-timeout", "30"]
    command += ["--continue-on-failure", "--suppress-health-check", "all", "--no-color"]
    if only is not None:
        command += ["--include-path-regex", only]
    held = subprocess.run(command, cwd=server.folder, check=False).returncode == 0
    log = server.log_text()[told:]
    faults = [line for line in log.splitlines() if "Traceback" in line or " ERROR " in line]
    print(f"memory of the server: {before >> 20} MiB before, {server.rss_bytes() >> 20} MiB after")
    print(f"tracebacks and errors in its log: {len(faults)}")
    if faults:
        print(log[-5000:])
    return held and not faults and server.answers()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.schema", description=__doc__)
    parser.add_argument("--examples", type=int, default=50, help="at most, per operation and phase")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--only", default=None, help="regular expression that paths must meet")
    given = parser.parse_args(arguments)
    seed = random.randrange(2**31) if given.seed is None else given.seed
    with ExitStack() as stack:
        url = None
        if given.database == "postgres":
            url = stack.enter_context(Postgres()).create_database("fuzz")
        server = ServerProcess(database_url=url)
        stack.callback(server.close)
        server.start()
        fine = run(server, examples=given.examples, seed=seed, only=given.only)
    print(f"seed {seed}, {given.database}: {'every check held' if fine else 'FAILED'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
