"""Issues a token for a client and prints it alone on standard output: `TOKEN=$(manage.py issue_token ana)`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from realtime.protocol.errors import ProtocolError
from realtime.tokens import issue_token


class Command(BaseCommand):
    help = "Issue a token for a client, signed with the first key that can sign."
    requires_system_checks = ()  # it reads no table; a check of the database would only be in the way

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("client", help="The client id: 1–128 visible ASCII characters.")
        parser.add_argument(
            "--cap", metavar="JSON", help="Channel pattern → operations. Default: what the namespaces grant."
        )
        parser.add_argument("--ttl", metavar="S", type=float, default=3600, help="Seconds it is valid. Default: 3600.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            capability = None if options["cap"] is None else json.loads(options["cap"])
            if options["cap"] is not None and not isinstance(capability, dict):
                raise CommandError("--cap is a JSON object of channel patterns.")
            text, _ = issue_token(options["client"], capability, options["ttl"])
        except ValueError as error:
            raise CommandError(f"--cap is not JSON: {error}") from None
        except ProtocolError as error:
            raise CommandError(f"{error.message} {error.remedy}") from None
        self.stdout.write(text)
