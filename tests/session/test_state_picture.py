from __future__ import annotations

from xml.etree import ElementTree

from realtime.protocol.session import TRANSITIONS, State
from scripts import state_picture


def test_the_picture_is_that_of_the_table() -> None:
    """When this fails: python -m scripts.state_picture"""
    assert state_picture.PICTURE.read_text() == state_picture.picture()


def test_the_picture_shows_every_state_and_every_move() -> None:
    texts = [element.text for element in ElementTree.fromstring(state_picture.picture()).iter() if element.text]
    for name in [*(state.name for state in State), *(event for _, event in TRANSITIONS)]:
        assert name in texts
