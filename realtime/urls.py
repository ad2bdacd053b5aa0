"""Addresses of the platform: the HTTP interface and the probes. A project includes them at its root."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [path("", include("realtime.api.urls"))]
