"""Addresses of the chat."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from chat import views

app_name = "chat"
urlpatterns: list[URLPattern | URLResolver] = [
    path("chat/", views.index, name="index"),
    # Without a slash at the end, so that no room's slug can be meant.
    path("chat/token", views.token, name="token"),
    path("chat/names", views.names, name="names"),
    path("chat/<slug:slug>/", views.room, name="room"),
]
