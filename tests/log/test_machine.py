"""Hypothesis drives the log against a model of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.log.machine import LogMachine


@pytest.mark.usefixtures("refusing_rows")
def test_any_sequence_of_rounds_and_retention_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        LogMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
