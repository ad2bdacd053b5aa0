"""The command, as a shell runs it: pipes, exit statuses, signals, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MS, eventually, heed_ctrl_c
from tests.servers import Site, free_port

pytestmark = pytest.mark.e2e

SDK = Path(__file__).resolve().parents[2] / "clients" / "python"
COMMAND = [sys.executable, "-m", "seriatim_client"]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(site: Site) -> dict[str, str]:
    key = site.manage("create_api_key", "ops", "--cap", '{"*":["*"]}').strip()
    given = {"PYTHONPATH": str(SDK), "SERIATIM_URL": site.url, "SERIATIM_API_KEY": key, "LANG": "C.UTF-8"}
    return given | {"PATH": os.environ["PATH"]}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def call(*arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**environment, **more},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return call


def prepare(run: Run, *arguments: str, given: str = "") -> None:
    """What a test stands on: it must have worked, or the test would tell something else."""
    done = run(*arguments, given=given)
    assert done.returncode == 0, done.stderr


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_publish_prints_the_position_and_tail_goes_on_from_it(run: Run) -> None:
    done = run("publish", "cli-one", '{"text":"hi"}')
    assert (done.returncode, done.stderr) == (0, "")
    position = done.stdout.strip()
    assert re.fullmatch(r"[\w-]+\.1", position)
    prepare(run, "publish", "cli-one", "-", "--event", "said", given="plain text\n")
    tail = run("tail", "cli-one", "--from", position, "--until-idle", "0.3", "--json")
    assert (tail.returncode, tail.stderr) == (0, "")
    (message,) = objects(tail.stdout)
    assert (message["serial"], message["data"], message["event"], message["client"]) == (2, "plain text", "said", "ops")
    data = run("tail", "cli-one", "--from", "start", "-n", "2", "--data")
    assert data.stdout == '{"text":"hi"}\nplain text\n'
    shown = run("tail", "cli-one", "--from", "rewind:1", "-n", "1").stdout.rstrip("\n").split("\t")
    assert shown[0].endswith(".2")
    assert shown[2:] == ["ops", "said", '"plain text"']


def test_lines_become_messages_and_the_same_lines_again_do_not(run: Run) -> None:
    lines = "".join(f'{{"id":"row-{number}","n":{number}}}\n' for number in range(2300))
    for stored in ("2300 stored", "2300 stored, 2300 of them before"):
        done = run("publish", "cli-lines", "--lines", "--id-from", "field:id", given=lines)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, stored, "")
    history = run("history", "cli-lines", "--after", "0", "--limit", "5000", "--json")
    messages = objects(history.stdout)
    assert [message["data"]["n"] for message in messages] == list(range(2300))
    assert [message["serial"] for message in messages] == list(range(1, 2301))
    assert messages[7]["id"] == "row-7"


@pytest.mark.parametrize(("form", "ids"), [("line:x", ["x-1", "x-3"]), ("hash", [64, 64])])
def test_ids_from_lines(run: Run, form: str, ids: list[Any]) -> None:
    channel = f"cli-ids-{form.partition(':')[0]}"
    done = run("publish", channel, "--lines", "--id-from", form, "--json", given="a\n\nb\n")
    got = [each["id"] for each in objects(done.stdout)]
    assert [len(id) if form == "hash" else id for id in got] == ids


def test_history_falls_from_the_head(run: Run) -> None:
    prepare(run, "publish", "cli-history", "--lines", "--text", given="1\n2\n3\n4\n")
    assert run("history", "cli-history", "--limit", "2", "--data").stdout == "4\n3\n"
    assert run("history", "cli-history", "--before", "3", "--data").stdout == "2\n1\n"


def test_a_token_is_issued_and_used(run: Run) -> None:
    token = run("token", "ana", "--cap", '{"cli-token":["publish","subscribe"]}', "--ttl", "60").stdout.strip()
    own = {"SERIATIM_API_KEY": "", "SERIATIM_TOKEN": token}
    assert run("publish", "cli-token", "1", **own).returncode == 0
    (message,) = objects(run("history", "cli-token", "--json").stdout)
    assert message["client"] == "ana"
    refused = run("history", "cli-token", **own)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("seriatim: forbidden (cli-token): ")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["publish", "no such name", "1"], 2, "bad_channel"),
        (["tail", "q", "--from", "somewhere"], 2, "bad_position"),
        (["publish", "q", "{", "--strict"], 2, "not JSON"),
        (["publish", "q", "x", "--lines"], 2, "--lines"),
        (["publish", "q", "1", "--id-from", "magic"], 2, "--id-from"),
        (["publish", "q", "1", "--id-from", "field:id"], 2, "no id"),
        (["token", "ana", "--cap", "{"], 2, "--cap"),
        (["tail", "q", "--count", "0"], 2, "--count"),
        (["dance"], 2, "dance"),
        (["publish", "nowhere:q", "1"], 1, "not_found"),
        (["tail", "nowhere:q"], 1, "not_found"),
    ],
)
def test_what_goes_wrong_is_said_on_standard_error(run: Run, arguments: list[str], status: int, said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_token_is_refused(run: Run) -> None:
    done = run("tail", "q", SERIATIM_API_KEY="", SERIATIM_TOKEN="no.such.token")
    assert done.returncode == 1
    assert done.stderr.startswith("seriatim: unauthorized")


@pytest.mark.parametrize("arguments", [["publish", "q", "1"], ["tail", "q"], ["history", "q"], ["token", "ana"]])
def test_a_server_that_is_away_has_an_exit_status_of_its_own(run: Run, arguments: list[str]) -> None:
    done = run(*arguments, "--timeout", "0.5", SERIATIM_URL=f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("seriatim: unreachable") or done.stderr.startswith("seriatim: token")


def test_who_closes_the_pipe_ends_the_command_quietly(run: Run, environment: dict[str, str]) -> None:
    prepare(run, "publish", "cli-pipe", "--lines", given="line\n" * 3000)
    for command in (["history", "cli-pipe", "--limit", "3000"], ["tail", "cli-pipe", "--from", "start"]):
        process = subprocess.Popen(
            [*COMMAND, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == ""
        process.stderr.close()


def test_ctrl_c_ends_tail_quietly(environment: dict[str, str], run: Run) -> None:
    prepare(run, "publish", "cli-int", "1")
    process = subprocess.Popen(
        [*COMMAND, "tail", "cli-int", "--from", "start"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


def test_lines_of_a_slow_pipe_are_sent_as_they_come(environment: dict[str, str], run: Run) -> None:
    process = subprocess.Popen(
        [*COMMAND, "publish", "cli-slow", "--lines", "--json"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    for number in (1, 2):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["serial"] == number
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("kind", ["rich", "plain"])
def test_progress_is_for_a_terminal(environment: dict[str, str], run: Run, tmp_path: Path, kind: str) -> None:
    prepare(run, "publish", f"cli-tty-{kind}", "--lines", given="a\nb\n")
    if kind == "plain":
        (tmp_path / "rich.py").write_text("raise ImportError")
    path = f"{tmp_path}:{environment['PYTHONPATH']}"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "tail", f"cli-tty-{kind}", "--from", "start", "--until-idle", "0.5"],
        env={**environment, "TERM": "xterm", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # Linux says so when the other end is closed.
    os.close(ours)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.count(b"\n") == 2
    assert b"messages" in shown
    assert b"messages" not in out


def test_load_counts_what_came(run: Run) -> None:
    done = run(
        *("load", "cli-load", "--subscribers", "3", "--publishers", "2"),
        *("--rate", "50", "--duration", "1", "--json"),
    )
    (report,) = objects(done.stdout)
    assert done.returncode == 0, report
    assert report["stored"] == report["published"] == 50
    assert (report["delivered"], report["lost"], report["out_of_order"]) == (150, 0, 0)
    assert report["delivery_ms"]["p50"] > 0


def test_tail_goes_on_over_a_restart_of_the_server(environment: dict[str, str], run: Run, site: Site) -> None:
    prepare(run, "publish", "cli-restart", "1")
    process = subprocess.Popen(
        [*COMMAND, "tail", "cli-restart", "--from", "start", "-n", "2", "--data"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    site.kill()
    site.start()
    prepare(run, "publish", "cli-restart", "2")
    assert process.communicate(timeout=40)[0] == "2\n"
    eventually(lambda: process.poll() == 0, 5000 * MS)
