"""`manage.py demo`: accounts, rooms and a conversation, so that the first look is at something alive.

May be run again at any time: what is there stays as it is, also what was changed since. Messages have fixed ids, so
publishing them again stores nothing.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from django.core.management.base import BaseCommand, CommandError, CommandParser

from chat import demo, rooms
from chat.authorization import file_of
from chat.demo_picture import HEIGHT, WIDTH, harbour
from chat.models import AuditEntry, Membership, Room, Upload
from realtime.publishing import publish
from realtime.tokens import client_id_of


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
        self._serials: dict[object, int | None] = {}
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
            for username, role in members.items() if created else ():
                Membership.objects.create(room=room, user=users.get(username=username), role=role)
        for pair in demo.DIRECT:
            first, second = (users.get(username=username) for username in pair)
            rooms.direct(first, client_id_of(second))

    def _say(self) -> int:
        new = 0
        said = {f"chat:{slug}": messages for slug, messages in demo.SAID.items()}
        users = get_user_model().objects
        for pair, messages in demo.DIRECT.items():
            first, second = (users.get(username=username) for username in pair)
            said[rooms.direct(first, client_id_of(second))[0].channel] = messages
        for channel, messages in said.items():
            for number, (client, text) in enumerate(messages, start=1):
                receipt = publish(channel, {"text": text}, id=f"demo-{number}", client=client)
                new += not receipt.duplicate
                if channel == "chat:lobby":
                    self._serials[number] = receipt.serial
        return new + self._happen()

    def _happen(self) -> int:
        """Threads, reactions, an edit, a deletion and a picture, in the lobby."""
        new = 0
        lobby = Room.objects.get(slug="lobby")
        picture = harbour()
        for number, (client, event, said) in enumerate(demo.HAPPENED, start=1):
            data = {key: self._serials[value] if key in ("of", "thread") else value for key, value in said.items()}
            upload = Upload(id=demo.PICTURE_ID, room=lobby, client=client, name=demo.PICTURE_NAME, type="image/png")
            upload.size, upload.width, upload.height = len(picture), WIDTH, HEIGHT
            if "files" in data:
                data["files"] = [file_of(upload)]
            receipt = publish(lobby.channel, data, event=event, id=f"demo-happened-{number}", client=client)
            self._serials[f"#{number}"] = receipt.serial
            new += not receipt.duplicate
            # Not again when the message was there already: the file goes with it when somebody deletes it.
            if "files" in data and not receipt.duplicate:
                upload.file.save(upload.id, ContentFile(picture), save=True)
            if event == "delete" and not receipt.duplicate:
                by = str(data["by"])
                AuditEntry.objects.create(
                    room=lobby, by=by, action="deleted", about=f"#{data['of']}", detail="of bo: an offer"
                )
        return new
