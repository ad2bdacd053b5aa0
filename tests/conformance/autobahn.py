"""The Autobahn suite's fuzzing client: fetched once, run against an address.

It is Python 2 code. So a Python 2.7 is unpacked (not installed) from the last Debian that had one, through the
machine's own package source, and what the client needs is put beside it by pip. All of it lies in one folder, and
nothing of the machine is changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RELEASE = "bullseye"

PACKAGES = (
    *("python2.7", "python2.7-minimal", "python2.7-dev", "libpython2.7", "libpython2.7-minimal", "libpython2.7-stdlib"),
    *("libpython2.7-dev", "python-pkg-resources", "python-setuptools", "libssl1.1", "libffi7", "libreadline8"),
)

PIP = "pip==20.3.4"
"""The last one for Python 2."""

TOOLS = ("setuptools==44.1.1", "wheel==0.37.1")

NEEDED = (
    *("Twisted==20.3.0", "autobahn==0.10.9", "autobahntestsuite==0.8.2", "klein==20.6.0", "Werkzeug<1", "markupsafe<2"),
    *("jinja2<3", "unittest2", "ws4py==0.5.1", "websocket-client<1"),
)

SUITE = "autobahntestsuite==25.10.1"
"""The cases. Its own requirements cannot be met, so those of the release before are installed, and this one over it."""

START = """
import sys; sys.argv[0] = "wstest"
import txaio; txaio.use_twisted()
from autobahntestsuite.wstest import run; run()
"""


class SuiteError(Exception):
    """The suite could not be had or did not run to its end; the message says why."""


@dataclass(frozen=True)
class Group:
    """How cases of one group ended. `informational` ones have no verdict, `loose` ones passed by a loose reading."""

    number: int
    ok: int
    informational: int
    loose: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def count(self) -> int:
        return self.ok + self.informational + len(self.loose) + len(self.failed)


class Suite:
    """The fuzzing client in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder / "root"
        self._site = folder / "site"
        self._cases = folder / "cases"

    def fetch(self) -> None:
        """Does nothing where all is in place. Raises SuiteError."""
        done = self._folder / "fetched"
        if done.exists() and done.read_text() == repr((RELEASE, PACKAGES, PIP, TOOLS, NEEDED, SUITE)):
            return
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise SuiteError(f"There is no {program} here: the suite runs on Debian and what is made of it.")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._unpack_python()
        self._install()
        done.write_text(repr((RELEASE, PACKAGES, PIP, TOOLS, NEEDED, SUITE)))

    def run(self, url: str, cases: list[str], report: Path, timeout_s: float) -> list[Group]:
        """Runs the cases (as `9.*`) and returns how they ended, by group; details are in `report`."""
        shutil.rmtree(report, ignore_errors=True)
        plan = self._folder / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "outdir": str(report),
                    "servers": [{"agent": "seriatim", "url": url}],
                    "cases": cases,
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        found = {"PYTHONPATH": f"{self._cases}:{self._site}"}
        self._python("-c", START, "-m", "fuzzingclient", "-s", str(plan), timeout_s=timeout_s, **found)
        return list(_groups(json.loads((report / "index.json").read_text())["seriatim"]))

    def script(self, path: Path, timeout_s: float, **variables: str) -> str:
        """Runs another suite's program, which finds here what it imports, and returns what it wrote."""
        self._python(str(path), timeout_s=timeout_s, PYTHONPATH=str(self._site), **variables)
        return (self._folder / "log").read_text(errors="replace")

    # ------------------------------------------------------------------ fetching

    def _unpack_python(self) -> None:
        apt = self._folder / "apt"
        (apt / "lists" / "partial").mkdir(parents=True)
        (apt / "cache" / "archives" / "partial").mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(f"deb {_debian()} {RELEASE} main\n")
        options = [
            f"Dir::Etc::sourcelist={apt}/sources.list",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::lists={apt}/lists",
            f"Dir::Cache={apt}/cache",
            f"Dir::State::status={apt}/status",
            "APT::Sandbox::User=root",
        ]
        given = [argument for option in options for argument in ("-o", option)]
        _quietly(["apt-get", *given, "update"], apt)
        _quietly(["apt-get", *given, "download", *PACKAGES], apt)
        for package in sorted(apt.glob("*.deb")):
            _quietly(["dpkg", "-x", str(package), str(self._root)], apt)
        shutil.rmtree(apt)

    def _install(self) -> None:
        _quietly(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PIP, "-d", str(self._folder)], self._folder
        )
        wheel = next(self._folder.glob("pip-*.whl"))
        # Neither the caller's configuration nor his own packages are for this Python.
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": str(self._site)}
        for target, *packages in (
            (self._site, *TOOLS),
            (self._site, *NEEDED),
            (self._cases, "--no-deps", SUITE),
        ):
            self._python(str(wheel / "pip"), "install", "-q", "--target", str(target), *packages, timeout_s=600, **pip)
        (self._site / "zope" / "__init__.py").touch()

    def _python(self, *arguments: str, timeout_s: float, **variables: str) -> None:
        # For this program alone: they would break every other Python.
        architecture = next((self._root / "usr" / "lib").glob("*-linux-gnu")).name
        headers = self._root / "usr" / "include"
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"},
            "LD_LIBRARY_PATH": f"{self._root}/usr/lib/{architecture}:{self._root}/lib/{architecture}",
            "PYTHONHOME": f"{self._root}/usr",
            "C_INCLUDE_PATH": f"{headers}/python2.7:{headers}",
            **variables,
        }
        _quietly([f"{self._root}/usr/bin/python2.7", *arguments], self._folder, environment, timeout_s)


def _debian() -> str:
    """Where this machine gets Debian's packages."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in files:
        for line in file.read_text().splitlines() if file.is_file() else []:
            found = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(\S+/debian)/?(?:\s|$)", line)
            if found:
                return found[1]
    raise SuiteError("/etc/apt names no source of Debian's packages.")


def _quietly(
    command: list[str], folder: Path, environment: dict[str, str] | None = None, timeout_s: float = 600
) -> None:
    """Runs it with its output in the folder's file `log`, which is shown when it fails."""
    log = folder / "log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
            ended = f"ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"did not end within {timeout_s:.0f} s"
    if ended:
        said = log.read_text(errors="replace")[-4000:]
        raise SuiteError(f"{' '.join(command[:4])} … {ended}.\n{said}")


def _groups(ended: dict[str, dict[str, str]]) -> Iterator[Group]:
    verdicts: dict[int, dict[str, list[str]]] = {}
    for case, result in ended.items():
        verdicts.setdefault(int(case.partition(".")[0]), {}).setdefault(_verdict(result), []).append(case)
    for number, cases in sorted(verdicts.items()):
        ok, informational, loose = (cases.pop(verdict, []) for verdict in ("OK", "INFORMATIONAL", "NON-STRICT"))
        failed = tuple(case for names in cases.values() for case in names)
        yield Group(number, len(ok), len(informational), tuple(loose), failed)


def _verdict(result: dict[str, str]) -> str:
    """Of a case, whose behaviour and whose way of ending both count: that which is not OK."""
    return next((each for each in (result["behavior"], result["behaviorClose"]) if each != "OK"), "OK")
