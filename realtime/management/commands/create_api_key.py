"""Creates an API key and prints it, alone and only once, on standard output: `KEY=$(manage.py create_api_key NAME)`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from realtime import desk
from realtime.tokens import DEFAULT_KEY_CAPABILITY, create_api_key


class Command(BaseCommand):
    help = "Create an API key and print it once; only a hash of it is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="Also the client id of what is published with the key.")
        parser.add_argument(
            "--cap",
            metavar="JSON",
            help='Channel pattern → operations, {"*":["*"]} is everything. Default: all channels, all but "admin".',
        )
        parser.add_argument("--expires", metavar="DAYS", type=float, help="Days until it expires. Default: never.")

    def handle(self, *args: Any, **options: Any) -> None:
        expires = None
        if options["expires"] is not None:
            if not 0 < options["expires"] <= 36_500:
                raise CommandError("--expires is a number of days from now, above 0.")
            expires = timezone.now() + timedelta(days=options["expires"])
        try:
            capability = DEFAULT_KEY_CAPABILITY if options["cap"] is None else json.loads(options["cap"])
            row, text = create_api_key(options["name"], capability, expires)
            desk.record(desk.SHELL, "make API key", row.name, capability=row.capability, key_id=row.key_id)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(text)
