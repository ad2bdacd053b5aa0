"""`manage.py new_epoch`: give logs a new epoch, which makes every position that clients hold void; they are told.

For one channel that begins its log anew, without what was in it, unless `--keep` says otherwise. `--all` is for a
database that went back in time (docs/how-to/restore.md): everything is kept, and clients start from what is retained.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import desk
from realtime.log import new_epochs
from realtime.protocol.errors import ProtocolError


class Command(BaseCommand):
    help = "Begins the log of a channel anew, or gives all logs a new epoch after a restore or a failover."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("channel", metavar="CHANNEL", nargs="?", help="the channel's name")
        which.add_argument("--all", action="store_true", help="all channels; their messages are kept")
        parser.add_argument("--keep", action="store_true", help="keep the channel's messages under the new epoch")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if not options["all"]:
                change = desk.new_epoch if options["keep"] else desk.empty
                self.stdout.write(f"{options['channel']} has epoch {change(options['channel'], actor=desk.SHELL)}.")
                return
            changed, locked = new_epochs()
            desk.record(desk.SHELL, "new epoch", "all", logs=changed)
        except ProtocolError as error:
            raise CommandError(f"{error.message} {error.remedy}") from error
        self.stdout.write(f"{changed} logs have a new epoch.")
        if locked:
            self.stdout.write(f"{len(locked)} are locked by other transactions, and get theirs when they are free.")
