"""A text that several people edit at once: the order of its channel is all that they need to agree on.

The rule of docs/explanation/uses.md: an edit names the serial that its author had seen; whoever applies it moves it
over the edits between, and an author has one edit under way at a time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from realtime import namespaces, tokens
from tests.conversation import Peer, connected, stop_worker, token

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "text"
"""The channel."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    namespaces.reset()
    tokens.reset_caches()
    yield
    namespaces.reset()
    tokens.reset_caches()


class Edit(NamedTuple):
    """A character put in at a place, or the one there taken out (""). `at` -1: nothing is left of it."""

    at: int
    put: str


def moved(edit: Edit, over: Edit) -> Edit:
    """The same edit, when another one came before it."""
    if over.at < 0 or edit.at < 0:
        return edit
    if over.put:
        return edit._replace(at=edit.at + (over.at <= edit.at))
    if over.at == edit.at and not edit.put:
        return edit._replace(at=-1)  # it is out already
    return edit._replace(at=edit.at - (over.at < edit.at))


def applied(text: str, edit: Edit) -> str:
    if edit.at < 0:
        return text
    return text[: edit.at] + edit.put + text[edit.at + (not edit.put) :]


def place_of(text: str, character: str, otherwise: int) -> int:
    return text.index(character) if character and character in text else otherwise


class Meant:
    """What all authors meant, by the text that each of them saw."""

    def __init__(self) -> None:
        self.out: set[str] = set()
        self.between: dict[str, tuple[str, str]] = {}
        """Of what was put in: what stood on its left and on its right, "" at the ends."""

    def note(self, text: str, edit: Edit) -> None:
        if edit.put:
            self.between[edit.put] = text[edit.at - 1 : edit.at] if edit.at else "", text[edit.at : edit.at + 1]
        else:
            self.out.add(text[edit.at])

    def holds_in(self, text: str) -> bool:
        beside = [
            place_of(text, left, -1) < text.index(each) < place_of(text, right, len(text))
            for each, (left, right) in self.between.items()
            if each in text
        ]
        return set(text) == self.between.keys() - self.out and len(text) == len(set(text)) and all(beside)


class Editor:
    """One copy of the text: what the log says, and one edit of its own that has not come back."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer, self.name = peer, name
        self.text = ""
        self.edits: list[Edit] = []
        """As they were applied; the one with serial 1 first."""
        self.under_way = False

    async def send(self, edit: Edit) -> None:
        self.under_way = True
        data = {"seen": len(self.edits), "at": edit.at, "put": edit.put}
        await self.peer.send({"type": "publish", "channel": TEXT, "messages": [{"data": data}]})

    async def take(self) -> None:
        message: dict[str, Any] = await self.peer.read(type="message", channel=TEXT)
        assert message["serial"] == len(self.edits) + 1
        edit = Edit(message["data"]["at"], message["data"]["put"])
        for between in self.edits[message["data"]["seen"] :]:
            edit = moved(edit, between)
        self.edits.append(edit)
        self.text = applied(self.text, edit)
        self.under_way = self.under_way and message["client"] != self.name

    def anything(self, chance: random.Random, put: str) -> Edit:
        if self.text and chance.random() < 0.3:
            return Edit(chance.randrange(len(self.text)), "")
        return Edit(chance.randint(0, len(self.text)), put)


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_several_edit_at_once_is_the_same_text_for_all(seed: int) -> None:
    chance = random.Random(seed)
    async with connected() as ana, connected(text=token("bob")) as bob, connected(text=token("eve")) as eve:
        editors = [Editor(ana, "ana"), Editor(bob, "bob"), Editor(eve, "eve")]
        for editor in editors:
            await editor.peer.request("attach", channel=TEXT)
        sent, meant = 0, Meant()
        put = [chr(0x4E00 + number) for number in range(90)]
        while sent < len(put):
            editor = chance.choice(editors)
            if not editor.under_way:
                edit = editor.anything(chance, put[sent])
                meant.note(editor.text, edit)
                await editor.send(edit)
                sent += 1
            elif len(editor.edits) < sent:
                # How far each one is behind is left to chance; what they see is not.
                await editor.take()
        for editor in editors:
            while len(editor.edits) < sent:
                await editor.take()
        assert editors[0].text == editors[1].text == editors[2].text != ""
        assert editors[0].edits == editors[1].edits == editors[2].edits
        assert meant.holds_in(editors[0].text)
        # Who opens it now reads the same.
        async with connected(text=token("late")) as late:
            reader = Editor(late, "late")
            await late.request("attach", channel=TEXT, **{"from": "start"})
            for _ in range(sent):
                await reader.take()
            assert reader.text == editors[0].text
    await stop_worker()
