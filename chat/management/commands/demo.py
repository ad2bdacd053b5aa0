"""`manage.py demo`: accounts, rooms and a conversation, so that the first look is at something alive.

May be run again at any time: what is there stays as it is, also what was changed since. Messages have fixed ids, so
publishing them again stores nothing.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from chat import demo
from chat.models import Membership, Room
from realtime.publishing import publish


class Command(BaseCommand):
    help = "Make the demo's accounts, rooms and messages (again: nothing)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--force", action="store_true", help="Also where neither DEMO nor DEBUG is on. The passwords are known."
        )

    def handle(self, *args: Any, force: bool, **options: Any) -> None:
        if not (force or settings.DEMO):
            raise CommandError(
                "The demo's passwords are known to everybody. Set DEMO=1 on a machine of your own, or add --force."
            )
        self._make_people()
        self._make_rooms()
        new = self._say()
        if options["verbosity"] > 1:
            self.stdout.write(f"{new} messages published.")
        logins = ", ".join(f"{name}/{name}" for name in demo.LOGINS)
        self.stdout.write(f"Demo users {logins}; operator {demo.OPERATOR}/{demo.OPERATOR}.")

    def _make_people(self) -> None:
        users = get_user_model().objects
        for username, first_name in demo.PEOPLE.items():
            if not users.filter(username=username).exists():
                # Without a password: who only wrote in the demo cannot log in.
                users.create_user(
                    username, password=username if username in demo.LOGINS else None, first_name=first_name
                )
        if not users.filter(username=demo.OPERATOR).exists():
            users.create_superuser(demo.OPERATOR, password=demo.OPERATOR, first_name="Operator")

    def _make_rooms(self) -> None:
        users = get_user_model().objects
        for slug, (name, topic, kind, members) in demo.ROOMS.items():
            room, created = Room.objects.get_or_create(slug=slug, defaults={"name": name, "topic": topic, "kind": kind})
            # Who was taken out of a room since is not put back in.
            for username in members if created else ():
                Membership.objects.create(room=room, user=users.get(username=username))

    def _say(self) -> int:
        new = 0
        for slug, messages in demo.SAID.items():
            for number, (client, text) in enumerate(messages, start=1):
                receipt = publish(f"chat:{slug}", {"text": text}, id=f"demo-{number}", client=client)
                new += not receipt.duplicate
        return new
