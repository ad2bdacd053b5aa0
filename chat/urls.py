"""Addresses of the chat."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from chat import api, views

app_name = "chat"
urlpatterns: list[URLPattern | URLResolver] = [
    path("chat/", views.index, name="index"),
    # Without a slash at the end, so that no room's slug can be meant.
    path("chat/token", views.token, name="token"),
    path("chat/names", views.names, name="names"),
    path("chat/rooms", api.room_list, name="rooms"),
    path("chat/direct", api.direct, name="direct"),
    path("chat/seen", api.seen, name="seen"),
    path("chat/search", api.search, name="search"),
    path("chat/people", api.people, name="people"),
    path("chat/files/<str:id>/<str:name>", api.file, name="file"),
    path("chat/<slug:slug>/", views.room, name="room"),
    path("chat/<slug:slug>/room", api.one_room, name="one-room"),
    path("chat/<slug:slug>/members", api.members, name="members"),
    path("chat/<slug:slug>/audit", api.audit, name="audit"),
    path("chat/<slug:slug>/page", api.page, name="page"),
    path("chat/<slug:slug>/at", api.at, name="at"),
    path("chat/<slug:slug>/files", api.upload, name="upload"),
    *(path(f"chat/<slug:slug>/{action}", api.act, {"action": action}, name=action) for action in api.ACTIONS),
]
