"""`manage.py prune`: forget messages now, by the namespaces' rules or through a serial of one channel."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import desk
from realtime.log import apply_retention, delete_chunks
from realtime.protocol.errors import ProtocolError


class Command(BaseCommand):
    help = (
        "Applies the retention of all namespaces and deletes what is no longer retained. "
        "With --channel and --upto, takes everything through that serial out of one channel instead."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--channel", metavar="NAME", help="the channel to take messages from")
        parser.add_argument("--upto", metavar="SERIAL", type=int, help="the last serial to take")

    def handle(self, *args: Any, **options: Any) -> None:
        channel, upto = options["channel"], options["upto"]
        if (channel is None) != (upto is None):
            raise CommandError("--channel and --upto go together.")
        try:
            if channel is not None:
                state = desk.prune(channel, upto, actor=desk.SHELL)
                self.stdout.write(f"{channel} retains serials {state.oldest} to {state.head}.")
            else:
                moved = apply_retention()
                self.stdout.write(f"{moved} channels retain less than before.")
            deleted = delete_chunks()
        except ProtocolError as error:
            raise CommandError(f"{error.message} {error.remedy}") from error
        self.stdout.write(f"{deleted} messages deleted; younger ones follow when they are two minutes old.")
