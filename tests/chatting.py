"""People of the chat, for tests: users with a browser, who publish over REST what their page would over the SDK."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

from django.contrib.auth.models import User
from django.test import Client

from chat.models import Membership, Room
from realtime.log.reads import read_page
from realtime.protocol.names import parse_channel
from realtime.testing import relay_now
from realtime.tokens import client_id_of, issue_token

OPERATIONS = ["subscribe", "publish", "history", "presence", "signal"]


class Person:
    """Somebody with a browser and a token."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.user = User.objects.create_user(name, **fields)
        self.client = client_id_of(self.user)
        self.browser = Client()
        self.browser.force_login(self.user)

    def token(self) -> str:
        return issue_token(self.client, {"chat:*": OPERATIONS}, 600, time.time())[0]

    def get(self, path: str, **query: Any) -> Any:
        return self.browser.get(f"/chat/{path}", query)

    def post(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """A request of the page; what it published is in the log afterwards, as if a worker had relayed it."""
        text = json.dumps({} if body is None else body)
        response = self.browser.generic(method, f"/chat/{path}", text, content_type="application/json")
        relay_now()
        return response

    def publish(self, room: str, *messages: dict[str, Any]) -> Any:
        """Messages of the form {event, data}, all or none."""
        return self.browser.post(
            f"/api/v1/channels/{quote(f'chat:{room}')}/messages",
            {"messages": list(messages)},
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.token()}"},
        )

    def says(self, room: str, text: str, **data: Any) -> int:
        """The serial of what was said."""
        return self.does(room, "message", text=text, **data)

    def does(self, room: str, event: str, **data: Any) -> int:
        response = self.publish(room, {"event": event, "data": data})
        assert response.status_code == 201, response.content
        serial: int = response.json()["serials"][0]
        return serial


def make_room(slug: str, kind: str = "public", **roles: Person) -> Room:
    """A room with `owner=`, `moderator=` or any other word for a member."""
    room = Room.objects.create(slug=slug, name=slug, kind=kind)
    for word, person in roles.items():
        role = word if word in ("owner", "moderator") else "member"
        Membership.objects.create(room=room, user=person.user, role=role)
    return room


def refusal(response: Any) -> str:
    """The code of a refusal, whose shape is checked."""
    error = response.json()["error"]
    assert response.status_code >= 400
    assert error["code"] and error["message"] and "remedy" in error
    return str(error["code"])


def logged(channel: str) -> list[tuple[str | None, str, Any]]:
    """What is in a log: (client, event, data)."""
    page = read_page(parse_channel(channel), after=0, order="asc", limit=1000)
    envelopes = [json.loads(text) for text in page.messages]
    return [(each["client"], each["event"], each["data"]) for each in envelopes]
