"""`manage.py new_epoch`: give logs a new epoch, after the database went back in time.

docs/how-to/restore.md says when that is needed. Every position that clients hold becomes void; they are told so, and
start from what the log retains. Rows and serials stay.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.log import new_epoch, new_epochs
from realtime.protocol.errors import ProtocolError
from realtime.protocol.names import ChannelName


class Command(BaseCommand):
    help = "Gives the log of one channel, or of all, a new epoch: after a restore, or a failover that lost commits."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("channel", metavar="CHANNEL", nargs="?", help="the channel's name")
        which.add_argument("--all", action="store_true", help="all channels")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if not options["all"]:
                self.stdout.write(f"{options['channel']} has epoch {new_epoch(ChannelName(options['channel']))}.")
                return
            changed, locked = new_epochs()
        except ProtocolError as error:
            raise CommandError(f"{error.message} {error.remedy}") from error
        if locked:
            raise CommandError(
                f"{len(locked)} of {changed + len(locked)} logs are locked by other transactions and kept their epoch. "
                "Run the command again."
            )
        self.stdout.write(f"{changed} logs have a new epoch.")
