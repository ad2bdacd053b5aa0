"""Shapes of bodies and answers, for the OpenAPI document.

Values are checked by the parsers of `realtime.protocol`, which the WebSocket uses as well: two validators of one
message would one day disagree.
"""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

Fields = serializers.Serializer[Any]


class MessageIn(Fields):
    id = serializers.CharField(
        max_length=64, required=False, help_text="Visible ASCII; made by the server when absent."
    )
    event = serializers.CharField(max_length=64, default="message")
    key = serializers.CharField(max_length=128, required=False, help_text="What the message is the newest state of.")
    data = serializers.JSONField(required=False, help_text="Any JSON.")  # type: ignore[assignment]  # DRF takes it out


class MessagesIn(Fields):
    messages = MessageIn(many=True, help_text="1–1000, stored all or none.")
    client = serializers.CharField(max_length=128, required=False, help_text="With an API key: who publishes.")


class SignalIn(Fields):
    event = serializers.CharField(max_length=64)
    data = serializers.JSONField(required=False, help_text="Any JSON.")  # type: ignore[assignment]  # as above
    to = serializers.CharField(max_length=128, required=False, help_text="The only client that gets it.")
    client = serializers.CharField(max_length=128, required=False, help_text="With an API key: whom it is from.")


class SignalOut(Fields):
    channel = serializers.CharField()
    event = serializers.CharField()


class PublishItem(Fields):
    channel = serializers.CharField(max_length=200)
    messages = MessageIn(many=True)
    client = serializers.CharField(max_length=128, required=False, help_text="With an API key: who publishes.")


class PublishIn(Fields):
    items = PublishItem(many=True, help_text="1–100 items, at most 1000 messages together.")
    client = serializers.CharField(max_length=128, required=False, help_text="With an API key: for all items.")


class PublishedOut(Fields):
    channel = serializers.CharField()
    epoch = serializers.CharField()
    serials = serializers.ListField(child=serializers.IntegerField())
    duplicates = serializers.ListField(child=serializers.IntegerField(), help_text="Indices of known messages.")
    conflicts = serializers.ListField(child=serializers.IntegerField(), help_text="Indices whose data differs.")


class ErrorFacts(Fields):
    """Stands for the component of the same name, which is made from the table of errors."""


class ItemOut(PublishedOut):
    """Stored, or an error: `realtime.api.openapi` says which goes with what."""

    error = ErrorFacts(required=False)


class PublishOut(Fields):
    items = ItemOut(many=True)


class MessageOut(Fields):
    type = serializers.CharField(default="message")
    channel = serializers.CharField()
    serial = serializers.IntegerField()
    id = serializers.CharField()
    time = serializers.IntegerField(help_text="Unix milliseconds.")
    client = serializers.CharField(allow_null=True)
    event = serializers.CharField()
    key = serializers.CharField(required=False)
    data = serializers.JSONField()  # type: ignore[assignment]  # as above


class SkippedOut(Fields):
    from_ = serializers.IntegerField()
    to = serializers.IntegerField()
    reason = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        fields["from"] = fields.pop("from_")  # a keyword of Python
        return fields


class PageOut(Fields):
    epoch = serializers.CharField(allow_null=True)
    oldest = serializers.IntegerField()
    head = serializers.IntegerField()
    messages = MessageOut(many=True)
    more = serializers.BooleanField()
    skipped = SkippedOut(required=False)


class ChannelOut(Fields):
    name = serializers.CharField()
    epoch = serializers.CharField(allow_null=True)
    oldest = serializers.IntegerField()
    head = serializers.IntegerField()
    occupancy = serializers.IntegerField()
    last_time = serializers.IntegerField(allow_null=True, help_text="Unix milliseconds.")
    closed = serializers.BooleanField(required=False, help_text="True while nobody may attach or publish.")


class ClosedIn(Fields):
    closed = serializers.BooleanField(help_text="Whether nobody may attach or publish from now on.")
    reason = serializers.CharField(max_length=200, required=False, help_text="For the audit log.")


class LogOut(Fields):
    epoch = serializers.CharField()
    oldest = serializers.IntegerField()
    head = serializers.IntegerField()


class BooksOut(Fields):
    attached = serializers.IntegerField()
    ended = serializers.IntegerField(help_text="Attachments that are no more, and count all the same.")
    positions = serializers.IntegerField(help_text="Serials that positions moved over, since each attachment's start.")
    left_out = serializers.DictField(
        child=serializers.IntegerField(), help_text="Of those, told by `skipped`; by reason."
    )
    delivered = serializers.IntegerField(help_text="positions − left_out")
    written = serializers.IntegerField(help_text="Messages, counted while they were written.")
    balanced = serializers.BooleanField(help_text="delivered = written")
    waiting = serializers.IntegerField(help_text="Messages of the log not sent to attachments yet, all together.")
    unacked = serializers.IntegerField()
    missing = serializers.ListField(child=serializers.CharField(), help_text="Workers that did not answer.")


class PassedOut(Fields):
    attached = serializers.IntegerField()
    passed = serializers.IntegerField(help_text="Live positions at the message or beyond.")
    acked = serializers.IntegerField()
    without_ack = serializers.IntegerField(help_text="Attachments with a window of 0, which never acknowledge.")
    heard = serializers.IntegerField(help_text="Workers that have heard of the message, of those that follow.")
    following = serializers.IntegerField()
    missing = serializers.ListField(child=serializers.CharField(), help_text="Workers that did not answer.")


class TraceOut(Fields):
    message = MessageOut(help_text="As it stands in the log.")
    epoch = serializers.CharField()
    live = PassedOut(help_text="By the state of this moment: who has left is not counted.")


class ActOut(Fields):
    id = serializers.IntegerField()
    at = serializers.IntegerField(help_text="Unix milliseconds.")
    actor = serializers.CharField()
    act = serializers.CharField()
    target = serializers.CharField(allow_blank=True)
    details = serializers.DictField()


class ActsOut(Fields):
    acts = ActOut(many=True, help_text="Newest first.")
    next = serializers.IntegerField(allow_null=True, help_text="`before` of the next page; null: this is the last.")


class MemberOut(Fields):
    client = serializers.CharField()
    connections = serializers.IntegerField(help_text="0: all of them broke less than ten seconds ago.")
    data = serializers.JSONField()  # type: ignore[assignment]  # as above
    since = serializers.IntegerField(help_text="Unix milliseconds.")


class MembersOut(Fields):
    members = MemberOut(many=True)
    count = serializers.IntegerField(help_text="All members, on this page or not.")
    next = serializers.CharField(allow_null=True, help_text="`page` of the next page; null: this is the last.")


class TokenIn(Fields):
    client = serializers.CharField(max_length=128)
    cap = serializers.DictField(child=serializers.ListField(child=serializers.CharField()), required=False)
    ttl_s = serializers.FloatField(min_value=1, required=False, default=3600)


class TokenOut(Fields):
    token = serializers.CharField()
    expires = serializers.IntegerField(help_text="Unix milliseconds.")


class ChannelsOut(Fields):
    channels = ChannelOut(many=True)
    next = serializers.CharField(allow_null=True, help_text="`page` of the next page; null: this is the last.")


class RevokeIn(Fields):
    jti = serializers.CharField(max_length=256, required=False, help_text="One token.")
    client = serializers.CharField(max_length=128, required=False, help_text="All tokens of a client until now.")
    key = serializers.CharField(
        max_length=32, required=False, help_text="All tokens issued with an API key (its id) until now, and the key."
    )
    reason = serializers.CharField(max_length=200, required=False, help_text="For the audit log.")


class RevokedOut(Fields):
    revoked = serializers.IntegerField(help_text="Rows: 1.")
    connections = serializers.IntegerField(help_text="Of the client, behind this address; those with tokens end.")


class DisconnectedOut(Fields):
    connections = serializers.IntegerField(help_text="That were open behind this address; others are closed as well.")
