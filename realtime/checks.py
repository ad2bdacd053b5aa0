"""System checks: combinations that would lose messages or leak are refused at start, with a remedy."""

from __future__ import annotations
