"""Addresses of the HTTP interface. Names in paths are taken whole, whatever they contain, so that a bad one is told."""

from __future__ import annotations

from django.urls import path, re_path

from realtime.api import desk, errors, health, metrics, openapi, views

# (?s:…): a name may arrive with anything in it, also a line feed.
_NAME = r"(?P<name>(?s:.*))"

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.scrape, name="metrics"),
    path("api/schema", openapi.schema, name="schema"),
    path("api/docs", openapi.docs, name="docs"),
    path("api/v1/publish", views.PublishView.as_view(), name="publish"),
    path("api/v1/channels", desk.ChannelsView.as_view(), name="channels"),
    path("api/v1/audit", desk.AuditView.as_view(), name="audit"),
    path("api/v1/tokens/revoke", desk.RevokeView.as_view(), name="revoke"),
    re_path(r"\Aapi/v1/clients/(?P<client>(?s:.*))/connections\Z", desk.ConnectionsView.as_view(), name="connections"),
    path("api/v1/tokens", views.TokensView.as_view(), name="tokens"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/messages\Z", desk.MessagesView.as_view(), name="messages"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/epoch\Z", desk.EpochView.as_view(), name="epoch"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/ledger\Z", desk.LedgerView.as_view(), name="ledger"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/trace\Z", desk.TraceView.as_view(), name="trace"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/signals\Z", views.SignalsView.as_view(), name="signals"),
    re_path(rf"\Aapi/v1/channels/{_NAME}/presence\Z", views.PresenceView.as_view(), name="presence"),
    re_path(rf"\Aapi/v1/channels/{_NAME}\Z", desk.ChannelView.as_view(), name="channel"),
    # Last: whatever stands below /api and is none of the above has an answer in the shape of the API.
    re_path(r"\Aapi(?:/|\Z)", errors.not_found),
]
