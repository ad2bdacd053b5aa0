"""Addresses of the platform: the HTTP interface, the probes, a token for pages.

A project includes them at its root, last, since what stands below `/api` and is nobody else's is answered here; or
under a prefix: `path("realtime/", include("realtime.urls"))`.
"""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

from realtime import views

app_name = "realtime"

urlpatterns: list[URLPattern | URLResolver] = [
    path("seriatim/token", views.token, name="token"),
    path("", include("realtime.api.urls")),
]
