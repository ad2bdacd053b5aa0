"""Builds the C programs and runs the load generator; its lines of JSON become results.

The programs lie in the state folder, named by the hash of their source, so that a change is built and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine

HERE = Path(__file__).resolve().parent
STATE = machine.ROOT / ".seriatim" / "bench"
FILES_BESIDE = 200
"""What a process has open beside its sockets."""


def build(name: str) -> Path:
    """The compiled program NAME.c of this folder."""
    source = HERE / f"{name}.c"
    program = STATE / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("The load generator needs a C compiler. On Debian: apt-get install gcc libc6-dev")
        STATE.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", made, source, "-lm"], check=True)
        made.rename(program)
    return program


def allow_files(sockets: int) -> None:
    """Raises the limit of open files for this process and its children; ends with a remedy where that is forbidden."""
    needed = sockets + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard if 0 <= needed <= hard else needed))
        except (ValueError, PermissionError):
            raise SystemExit(
                f"{sockets} sockets need {needed} open files; {hard} are allowed. "
                f"Run it as root, or raise the limit: ulimit -n {needed}"
            ) from None


@dataclass
class Loaded:
    """What the generator told of one server: connecting, standing idle, and each phase. Its names are in load.c."""

    connected: dict[str, Any] = field(default_factory=dict)
    idle: dict[str, Any] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""
    """Why it ended early."""


def run(
    dialect: str,
    port: int,
    pids: Sequence[int],
    subscribers: int,
    phases: Sequence[tuple[str, float]],
    options: Mapping[str, object],
    beside: Callable[[str], AbstractContextManager[dict[str, Any]]] | None = None,
) -> Loaded:
    """One generator on its core, from connecting to the last phase: (pace, seconds) each.

    `beside(pace)` is entered while a phase runs, and tells for its result what happened besides.
    """
    given = {
        "dialect": dialect,
        "port": port,
        "pids": ",".join(map(str, pids)),
        "subscribers": subscribers,
        "phases": ",".join(f"{pace}:{seconds:g}" for pace, seconds in phases),
        "server-core": min(machine.SERVER_CORES),
        "generator-core": min(machine.GENERATOR_CORES),
        **options,
    }
    child = subprocess.Popen(
        [build("load"), *[str(part) for name, value in given.items() for part in (f"--{name}", value)]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(machine.GENERATOR_CORES)}),
    )
    loaded = Loaded()
    stack = ExitStack()
    more: dict[str, Any] = {}
    try:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        for line in child.stdout:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "begin":
                more = stack.enter_context(beside(event["pace"])) if beside else {}
                child.stdin.write("\n")
                child.stdin.flush()
            elif kind == "phase":
                stack.close()
                loaded.phases.append({**event, "beside": more})
            else:
                setattr(loaded, kind, event)
        loaded.trouble = child.stderr.read().strip()
        if child.wait() and not loaded.trouble:
            loaded.trouble = loaded.phases[-1]["error"] if loaded.phases else f"exit status {child.returncode}"
    finally:
        stack.close()
        if child.poll() is None:
            child.kill()
            child.wait()
    return loaded
