"""The quiz: a question every ten minutes, one vote a person.

Questions and votes are messages of one channel. A vote is stored and published in one transaction, so that either both
happened or neither; the page counts the messages of the round, and since none is lost or doubled the tally is right.
"""

from __future__ import annotations

from typing import Final

from django.db import IntegrityError, transaction

from dashboards.models import Vote
from realtime.publishing import publish

CHANNEL: Final = "quiz:live"
ROUND_S: Final = 600
QUESTIONS: Final = (
    ("Which of these is a promise of a log, and not of a queue?", ("Everybody reads all", "First come", "Fair shares")),
    ("What does a subscriber send when it has processed a message?", ("An ack", "A copy", "Nothing")),
    ("Which number never repeats in a channel?", ("The serial", "The window", "The port")),
    ("What is better late than never?", ("Commentary", "A cursor", "A score")),
    ("Where is a message when Redis is away?", ("In the database", "Lost", "In Redis")),
    ("Who numbers the messages of a channel?", ("The log", "The sender", "The reader")),
)


def round_of(second: float) -> int:
    return int(second) // ROUND_S


def question_of(round_: int) -> tuple[str, tuple[str, ...]]:
    return QUESTIONS[round_ % len(QUESTIONS)]


def vote(client: str, round_: int, choice: int) -> bool:
    """Counts the vote; False when this client has voted in this round before."""
    try:
        with transaction.atomic():
            Vote.objects.create(round=round_, client=client)
            data = {"round": round_, "choice": question_of(round_)[1][choice]}
            publish(CHANNEL, data, event="vote", client=client, id=f"vote-{round_}")
    except IntegrityError:
        return False
    return True
