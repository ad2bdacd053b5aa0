"""`python -m seriatim_client` is the command `seriatim`."""

from __future__ import annotations

from seriatim_client.cli import run

run()
