"""Dockerfile, compose and systemd: what they name is there, and what they promise fits the program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from realtime.conf import keys
from realtime.management.commands.serve import Command
from realtime.server.supervisor import KILL_AFTER_S
from tests.balancers import DEPLOY, ROOT, program, program_environment
from tests.servers import site_environment

COMPOSE = DEPLOY / "compose"
SITES = ("sockets1", "sockets2", "pages1")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return loaded


def variables_of_the_site() -> set[str]:
    """What config/settings.py reads, by its page, which is tested against it."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    return set(re.findall(r"^\| `([A-Z_]+)` \|", page.partition("## `REALTIME`")[0], re.MULTILINE))


def must_outlast_s() -> float:
    """How long a supervisor may take to end."""
    return float(keys()["DRAIN_S"].default + KILL_AFTER_S)


# ---------------------------------------------------------------------- the image


def test_what_the_image_holds_is_enough_to_check_the_site_and_find_its_files(tmp_path: Path) -> None:
    image = tmp_path / "image"
    for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                into = image / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, into)
    state = tmp_path / "state"
    state.mkdir()
    calls = "call_command('check'); call_command('findstatic', 'seriatim/index.js', 'css/tokens.css', first=True)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import django; django.setup(); from django.core.management import call_command; {calls}",
        ],
        cwd=image,
        env=site_environment(state),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No matching file" not in done.stderr
    assert done.stdout.count(str(image)) == 2, done.stdout


def test_the_image_runs_the_server_itself_and_asks_whether_it_lives() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", "")
    entry, command = (
        json.loads(re.findall(rf"^{word} (\[.*\])$", text, re.MULTILINE)[0]) for word in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["python", "manage.py"]
    assert command[0] == "serve"
    Command().create_parser("manage.py", "serve").parse_args(command[1:])
    assert "/healthz" in text.partition("HEALTHCHECK")[2]
    assert "USER seriatim" in text


# ---------------------------------------------------------------------- compose


def test_files_that_compose_mounts_are_there(compose: dict[str, Any]) -> None:
    mounted = [
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())
    ]
    named = set(compose["volumes"])
    paths = [path for path in mounted if path not in named and not path.startswith("$")]
    assert len(paths) >= 6
    assert [path for path in paths if not (COMPOSE / path).exists()] == []
    build = compose["services"]["pages1"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).exists()


def test_variables_without_a_default_are_in_the_example(compose: dict[str, Any]) -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    given = set(re.findall(r"^([A-Z_]+)=", (COMPOSE / "example.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+):\?", text)) <= given
    assert given <= set(re.findall(r"\$\{([A-Z_]+)", text)), "nobody reads it"


def test_what_compose_gives_the_site_are_variables_of_the_site(compose: dict[str, Any]) -> None:
    known = variables_of_the_site()
    for name in (*SITES, "migrate"):
        assert set(compose["services"][name]["environment"]) <= known


def test_services_of_compose_serve_in_their_roles_and_may_drain(compose: dict[str, Any]) -> None:
    parser = Command().create_parser("manage.py", "serve")
    roles = {}
    for name in SITES:
        service = compose["services"][name]
        command = service["command"]
        assert command[0] == "serve"
        roles[name] = parser.parse_args(command[1:]).role
        assert float(service["stop_grace_period"].removesuffix("s")) > must_outlast_s()
    assert roles == {"sockets1": "realtime", "sockets2": "realtime", "pages1": "web"}


def test_the_pools_and_targets_of_compose_are_its_services(compose: dict[str, Any]) -> None:
    pools = (COMPOSE / "pools.cfg").read_text()
    hosts = {
        pool: re.findall(r"^    server \S+ (\S+):8000", lines, re.MULTILINE)
        for pool, lines in re.findall(r"^backend (\w+)\n((?:    .*\n)+)", pools, re.MULTILINE)
    }
    assert hosts == {"sockets": ["sockets1", "sockets2"], "sockjs": ["sockets1", "sockets2"], "pages": ["pages1"]}
    (targets,) = yaml.safe_load((COMPOSE / "targets.yml").read_text())
    assert targets["targets"] == [f"{name}:8000" for name in SITES]
    # Prometheus and the health checks call the site by these names.
    allowed = compose["services"]["pages1"]["environment"]["ALLOWED_HOSTS"].split(",")
    assert {"localhost", *SITES} <= set(allowed)
    said = subprocess.run(
        [program("usr/sbin/haproxy"), "-c", "-f", DEPLOY / "haproxy" / "seriatim.cfg", "-f", COMPOSE / "pools.cfg"],
        env=program_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr


# ---------------------------------------------------------------------- systemd


def test_the_unit_reloads_by_sighup_and_waits_for_the_drain() -> None:
    lines = (DEPLOY / "systemd" / "seriatim.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert float(unit["TimeoutStopSec"]) > must_outlast_s()
    assert unit["KillMode"] == "mixed", "only the supervisor hears of the end"
    assert unit["KillSignal"] == "SIGTERM"
    arguments = unit["ExecStart"].split("manage.py serve ")[1].split()
    Command().create_parser("manage.py", "serve").parse_args(arguments)
    given = {pair.split("=")[0] for pair in unit["Environment"].split()}
    assert given - {"PYTHONUNBUFFERED"} <= variables_of_the_site()
