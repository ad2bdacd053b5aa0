"""The index of what was said: the rooms' logs, folded into tables, for pages, counts and search.

Messages come over WebSockets, so nothing of the chat runs when one is stored. Instead the log is read on from where the
index stands, whenever somebody asks for something that rests on it: usually a few messages. One transaction folds one
stretch of one room under the lock of its `RoomIndex`, so that any number of processes may do it at the same time. The
log is the truth: a new epoch empties the index of the room, and what retention took leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from django.db import connection, transaction

from chat import fold
from chat.models import IndexedMessage, LastSeen, Mention, Notice, Room, RoomIndex, Seen, Upload
from realtime.log.reads import read_page, read_states

if TYPE_CHECKING:
    from realtime.log.types import LogState
    from realtime.protocol.names import ChannelName

STRETCH: Final = 500
"""Messages folded in one transaction: some tens of milliseconds of SQLite's only lock."""
BUDGET: Final = 5_000
"""Messages folded for one request. What is left waits for the next one: answers say how far they go."""
COUNT_MOST: Final = 999
PAGE_MOST: Final = 100
THREAD_MOST: Final = 200
NOTICES_MOST: Final = 200
RECEIPTS_MOST: Final = 500


def catch_up(rooms: Iterable[Room], budget: int = BUDGET) -> dict[int, RoomIndex]:
    """Reads on in the logs of these rooms; gives their indexes by room. Two queries if all is there."""
    by_channel = {cast("ChannelName", room.channel): room for room in rooms}
    states = read_states(list(by_channel))
    known = {index.room_id: index for index in RoomIndex.objects.filter(room__in=list(by_channel.values()))}
    for channel, room in by_channel.items():
        index = known.get(room.pk) or RoomIndex(room=room)
        while budget > 0 and _is_behind(index, states[channel]):
            before = index.through
            index = _read_on(room, min(STRETCH, budget))
            # At least something, so that a log that is relabelled all the time ends, too.
            budget -= max(1, index.through - before)
        known[room.pk] = index
    return known


def _is_behind(index: RoomIndex, state: LogState) -> bool:
    return state.epoch is not None and (
        index.epoch != state.epoch or index.through < state.head or index.oldest < state.oldest
    )


@transaction.atomic
def _read_on(room: Room, most: int) -> RoomIndex:
    """One stretch of the log into the index."""
    RoomIndex.objects.get_or_create(room=room)
    index = RoomIndex.objects.select_for_update().get(room=room)
    channel = cast("ChannelName", room.channel)
    page = read_page(channel, after=index.through, order="asc", limit=most)
    if page.epoch is None:
        return index
    if page.epoch != index.epoch:
        _begin_anew(room)
        index.epoch, index.through, index.last_time = page.epoch, 0, 0
        page = read_page(channel, after=0, order="asc", limit=most)
    elif index.oldest < page.oldest:
        _forget_before(room, page.oldest)
    envelopes = [json.loads(text) for text in page.messages]
    index.last_time = max(index.last_time, _fold_in(room, envelopes))
    index.oldest = page.oldest
    if not page.more:
        # There is nothing between the last message and the head but what retention has taken.
        index.through = max(index.through, page.head)
    else:
        # Without a message, too: one that was stored after the rows were read is below the head, and still to be read.
        index.through = envelopes[-1]["serial"] if envelopes else max(index.through, page.oldest - 1)
    index.save()
    return index


def _forget_before(room: Room, oldest: int) -> None:
    """What retention has taken."""
    for table in (IndexedMessage, Mention, Notice, Upload):
        table._default_manager.filter(room=room, serial__lt=oldest).delete()


def _begin_anew(room: Room) -> None:
    """Serials of another epoch are other messages. Files stay: the new log may name them."""
    Upload.objects.filter(room=room).update(serial=None)
    for table in (IndexedMessage, Mention, Notice, Seen):
        table._default_manager.filter(room=room).delete()


def _fold_in(room: Room, envelopes: Sequence[dict[str, Any]]) -> int:
    """Applies messages of the log, in order; returns the time of the last `message` among them, or 0."""
    new: dict[int, IndexedMessage] = {}
    known = _concerned(room, envelopes)
    changed: dict[int, IndexedMessage] = {}
    notices: list[Notice] = []
    seen: dict[str, int] = {}
    heard: dict[str, int] = {}
    last_time = 0
    for envelope in envelopes:
        serial, event = envelope["serial"], envelope["event"]
        if envelope["client"]:
            heard[envelope["client"]] = envelope["time"]
        of = None
        if event == "message":
            state = fold.begin(envelope)
            if state is not None:
                last_time, of = envelope["time"], state["thread"]
                new[serial] = IndexedMessage(room=room, serial=serial, client=state["client"], time=state["time"])
                new[serial].thread, new[serial].state = of, state
        elif event in ("edit", "delete", "react"):
            of = fold.target(envelope)
        elif event == "receipt":
            receipt = fold.receipt(envelope)
            if receipt is not None:
                client, through = receipt
                seen[client] = max(through, seen.get(client, 0))
        elif event in ("member", "room"):
            state = fold.notice(envelope)
            if state is not None:
                notices.append(Notice(room=room, serial=serial, state=state))
        about = None if of is None else new.get(of) or known.get(of)
        if about is not None:
            fold.apply(about.state, envelope)
            if of in known:
                changed[about.serial] = about
    for row in (*new.values(), *changed.values()):
        row.searched, row.deleted = row.state["text"].casefold(), row.state["deleted"] is not None
    IndexedMessage.objects.bulk_create(new.values())
    IndexedMessage.objects.bulk_update(changed.values(), ["state", "searched", "deleted"], batch_size=100)
    Notice.objects.bulk_create(notices)
    _keep_mentions(room, new, changed)
    _keep_uploads(room, new, changed)
    _keep_highest(Seen, "through", seen, room=room)
    _keep_highest(LastSeen, "time", heard)
    return last_time


def _concerned(room: Room, envelopes: Sequence[dict[str, Any]]) -> dict[int, IndexedMessage]:
    """Messages of the index that events of this stretch may be about."""
    wanted: set[int] = set()
    for envelope in envelopes:
        data = envelope["data"] if isinstance(envelope["data"], dict) else {}
        of = fold.whole(data.get("thread" if envelope["event"] == "message" else "of"))
        if of is not None and 0 < of < envelopes[0]["serial"]:
            wanted.add(of)
    return {row.serial: row for row in IndexedMessage.objects.filter(room=room, serial__in=wanted)} if wanted else {}


def _keep_mentions(room: Room, new: dict[int, IndexedMessage], changed: dict[int, IndexedMessage]) -> None:
    if changed:
        Mention.objects.filter(room=room, serial__in=list(changed)).delete()
    Mention.objects.bulk_create(
        Mention(room=room, serial=row.serial, client=client)
        for row in (*new.values(), *changed.values())
        for client in dict.fromkeys(row.state["mentions"])
    )


def _keep_uploads(room: Room, new: dict[int, IndexedMessage], changed: dict[int, IndexedMessage]) -> None:
    """Files belong to the message that names them, and go with it."""
    for row in new.values():
        ids = [file["id"] for file in row.state["files"]]
        if ids:
            Upload.objects.filter(id__in=ids, room=room, client=row.client, serial=None).update(serial=row.serial)
    deleted = [row.serial for row in (*new.values(), *changed.values()) if row.deleted]
    if deleted:
        Upload.objects.filter(room=room, serial__in=deleted).delete()


def _keep_highest(table: Any, field: str, found: dict[str, int], **of: Room) -> None:
    """Puts the numbers by client into the table, as far as they are higher than what is there."""
    known = dict(table.objects.filter(client__in=list(found), **of).values_list("client", field)) if found else {}
    table.objects.bulk_create(
        [
            table(client=client, **{field: at}, **of)
            for client, at in sorted(found.items())
            if at > known.get(client, 0)
        ],
        update_conflicts=True,
        unique_fields=[*of, "client"],
        update_fields=[field],
    )


# ---------------------------------------------------------------- reading


def unread(rooms: Sequence[Room], client: str) -> dict[int, tuple[int, int]]:
    """Of each room: messages of others, and those that mention `client`, after what he has seen; each at most 999."""
    if not rooms:
        return {}
    # Two bounded scans of an index for each room, in one statement.
    sql = """
        SELECT r.id,
          (SELECT count(*) FROM (SELECT 1 FROM chat_indexedmessage m WHERE m.room_id = r.id
            AND m.serial > coalesce(s.through, 0) AND m.client <> %s AND NOT m.deleted LIMIT %s) a),
          (SELECT count(*) FROM (SELECT 1 FROM chat_mention t WHERE t.room_id = r.id
            AND t.serial > coalesce(s.through, 0) AND t.client = %s LIMIT %s) b)
        FROM chat_room r LEFT JOIN chat_seen s ON s.room_id = r.id AND s.client = %s WHERE r.id IN ({})
    """.format(",".join(["%s"] * len(rooms)))
    with connection.cursor() as cursor:
        cursor.execute(sql, [client, COUNT_MOST, client, COUNT_MOST, client, *(room.pk for room in rooms)])
        return {room_id: (messages, mentions) for room_id, messages, mentions in cursor.fetchall()}


def seen(room: Room, client: str) -> dict[str, Any] | None:
    """Through which serial somebody has seen a room, on whichever device, and the time of the last message of it."""
    # A page does not wait for a long log to be folded: what the index does not know yet counts as new.
    position = catch_up([room], STRETCH)[room.pk]
    through = Seen.objects.filter(room=room, client=client).values_list("through", flat=True).first()
    if through is None:
        return None
    read = IndexedMessage.objects.filter(room=room, serial__lte=through).order_by("-serial")
    time = read.values_list("time", flat=True).first()
    return None if time is None else {"epoch": position.epoch, "serial": through, "time": time}


def page(
    room: Room,
    *,
    before: int | None = None,
    after: int | None = None,
    around: int | None = None,
    thread: int | None = None,
    limit: int,
) -> dict[str, Any]:
    """Folded messages of a range of serials, with what the page shows between them."""
    index = catch_up([room])[room.pk]
    rows = IndexedMessage.objects.filter(room=room, serial__gte=index.oldest)
    if thread is not None:
        rows = rows.filter(thread=thread) | rows.filter(serial=thread)
    if around is not None:
        older = _downward(rows, around + 1, limit - limit // 2)
        newer = _upward(rows, around, limit // 2)
    elif after is not None:
        older, newer = ([], False), _upward(rows, after, limit)
        older = ([], rows.filter(serial__lte=after).exists())
    else:
        older, newer = _downward(rows, before, limit), ([], False)
        if before is not None:
            newer = ([], rows.filter(serial__gte=before).exists())
    found = [*older[0], *newer[0]]
    more_before, more_after = older[1], newer[1]
    if thread is not None and (not found or found[0].serial != thread):
        # A thread is never without its beginning, however long it is; retention may have taken it.
        found = [*rows.filter(serial=thread), *found]
    first = found[0].serial if found and more_before else index.oldest
    last = found[-1].serial if found and more_after else index.through
    if after is not None:
        first = max(index.oldest, after + 1)
    if before is not None:
        last = min(index.through, before - 1)
    noted = Notice.objects.filter(room=room, serial__gte=first, serial__lte=last).order_by("-serial")
    receipts = Seen.objects.filter(room=room).order_by("-through")[:RECEIPTS_MOST]
    return {
        "epoch": index.epoch or None,
        "oldest": index.oldest,
        "head": index.through,
        "through": index.through,
        "from": first,
        "to": last,
        "messages": [row.state for row in found],
        "notices": [] if thread is not None else [each.state for each in reversed(noted[:NOTICES_MOST])],
        "receipts": {each.client: each.through for each in receipts},
        "more_before": more_before,
        "more_after": more_after,
    }


def _downward(rows: Any, below: int | None, limit: int) -> tuple[list[IndexedMessage], bool]:
    """The newest `limit` messages below a serial, in order, and whether there are older ones."""
    if below is not None:
        rows = rows.filter(serial__lt=below)
    found = list(rows.order_by("-serial")[: limit + 1])
    return found[:limit][::-1], len(found) > limit


def _upward(rows: Any, above: int, limit: int) -> tuple[list[IndexedMessage], bool]:
    found = list(rows.filter(serial__gt=above).order_by("serial")[: limit + 1])
    return found[:limit], len(found) > limit
