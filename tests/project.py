"""A Django project that is not ours: made by `startproject` in a folder of its own, with the wheel installed beside it.

The wheel is built from this checkout and installed without its dependencies, which this interpreter has already: no
download. The project sees the installed package, never the checkout.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ServerError

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^(?P<append>At the end of )?`(?P<path>[\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """A code block of a page: commands, or text for a file."""

    text: str
    path: str | None
    append: bool

    @property
    def commands(self) -> list[str]:
        return [] if self.path else self.text.strip().splitlines()


def blocks(page: Path) -> list[Block]:
    """What a page has its reader do, in order. The line before names a file: "`path`:" or "At the end of `path`:"."""
    found = []
    for match in _BLOCK.finditer(page.read_text()):
        named = _FILE.match(match["before"])
        if named is None and match["language"] != "sh":
            raise AssertionError(f"{page.name}: nothing says where this goes:\n{match['text']}")
        found.append(Block(match["text"], named["path"] if named else None, bool(named and named["append"])))
    return found


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    _run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)],
        cwd=folder,
        environment=dict(os.environ),
    )
    (wheel,) = folder.glob("seriatim-*.whl")
    return wheel


class Project:
    """A fresh project `mysite`. Commands run as a reader would type them, in its folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "mysite"
        self.packages = folder / "packages"
        self._programs = folder / "bin"
        self._wheel = wheel
        for each in (self.folder, self.packages, self._programs):
            each.mkdir(parents=True)
        python = self._programs / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        self.run("python -m django startproject mysite .")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.packages),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def install(self) -> None:
        """What `pip install seriatim` does, but for the dependencies."""
        target = ["--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(self.packages)]
        _run([sys.executable, "-m", "pip", "install", *target, str(self._wheel)], self.folder, self.environment)

    def run(self, command: str) -> str:
        """Runs a line in a shell and returns its output."""
        return _run(["/bin/sh", "-c", command], self.folder, self.environment)

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = f"{file.read_text()}\n" if append else ""
        file.write_text(before + text)


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} ended with {done.returncode}.\n{done.stdout}{done.stderr}")
    return done.stdout
