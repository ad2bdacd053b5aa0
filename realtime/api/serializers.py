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
    error = ErrorFacts(required=False, help_text="In place of the other fields, when the item was refused.")


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
    ttl_s = serializers.IntegerField(min_value=1, required=False, default=3600)


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
